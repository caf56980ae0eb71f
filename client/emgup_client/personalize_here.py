"""Personalizing into the vault without a server: the release comes from a folder."""

from __future__ import annotations

from pathlib import Path

from emgup_client.app import ClientSettings, Subject, personalize_once
from emgup_client.personalized import TRUSTED
from emgup_client.releases import ReleaseCache
from emgup_client.vault import private_dir
from emgup_model.config import canonical_json, digest
from emgup_model.data.store import read_info
from emgup_model.keys import read_trusted, write_trusted
from emgup_model.methods import load_method
from emgup_model.release import ReleaseFiles
from emgup_model.wire import Personalize, Reply


def personalize_here(
    home: Path, recording: Path, release: Path, trusted: Path | None, method_name: str, seed: int, device: str
) -> Reply:
    """Adapt the release in the folder ``release`` to all recordings of a user's file; the model is in ``home``'s vault.

    The same again is answered from the vault; what was killed goes on.

    Args:
        home: the client's private folder.
        recording: the user's recording file.
        release: folder of a source release; a copy is kept.
        trusted: file of release-signing keys to trust from now on; None = those that ``home`` trusts.
        method_name: a shipped method, or a YAML file.
        seed: of every random draw.
        device: torch device.

    Raises:
        ConfigError, DataError, ReleaseError, VaultError: nothing is saved then.
    """
    method, user = load_method(method_name), read_info(recording)
    private_dir(home)
    if trusted is not None:
        _trust(home / TRUSTED, trusted)
    files = ReleaseFiles.read(release)
    ReleaseCache(home, home / TRUSTED).add(files)
    asked = {
        "release_id": files.id,
        "method": canonical_json(method).decode(),
        "protocol": "transductive",
        "scenario": "balanced",
        "seed": seed,
    }
    cell = digest({**asked, "content": user.content_sha256})
    request = Personalize.model_validate({**asked, "method_name": Path(method_name).stem, "cell": cell})
    settings = ClientSettings(home, home / TRUSTED, lambda _: Subject(user.user, recording), device)
    return personalize_once(request, settings)


def _trust(path: Path, more: Path) -> None:
    known = read_trusted(path) if path.exists() else ()
    write_trusted(path, list(dict.fromkeys([*known, *read_trusted(more)])))
