"""Personalizing into the vault without a server: the release comes from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from emgup_client.app import ClientSettings, Subject, personalize_once
from emgup_client.personalized import TRUSTED
from emgup_client.releases import ReleaseCache
from emgup_client.vault import private_dir
from emgup_model.config import canonical_json, digest
from emgup_model.data.store import read_info
from emgup_model.errors import ConfigError
from emgup_model.evaluation.protocols import Protocol
from emgup_model.evaluation.scenarios import SCENARIOS
from emgup_model.evaluation.streaming import StreamingConfig
from emgup_model.keys import read_trusted, write_trusted
from emgup_model.methods import load_method
from emgup_model.provenance import result_identity
from emgup_model.release import ReleaseFiles, open_release
from emgup_model.wire import Personalize, Reply


def personalize_here(
    home: Path,
    recording: Path,
    release: Path,
    trusted: Path | None,
    method_name: str,
    seed: int,
    device: str,
    protocol: str = "transductive",
    scenario: str = "balanced",
) -> Reply:
    """Adapt the release in the folder ``release`` to a user's recordings; the model is in ``home``'s vault.

    The same again is answered from the vault; what was killed goes on.

    Args:
        home: the client's private folder.
        recording: the user's recording file.
        release: folder of a source release; a copy is kept.
        trusted: file of release-signing keys to trust from now on; None = those that ``home`` trusts.
        method_name: a shipped method, or a YAML file.
        seed: of every random draw.
        device: torch device.
        protocol, scenario: which recordings and windows adapt the model, and which it is scored on where the file holds
            labels; a scenario other than ``balanced`` needs them.

    Raises:
        ConfigError, DataError, NotApplicableError, ReleaseError, VaultError: no model is saved then, and nothing at all
            where the settings, the file or the release are refused.
    """
    check_choice("protocol", protocol, get_args(Protocol))
    check_choice("scenario", scenario, SCENARIOS)
    method, user = load_method(method_name), read_info(recording)
    known = read_trusted(home / TRUSTED) if trusted is None or (home / TRUSTED).exists() else ()
    keys = list(dict.fromkeys([*known, *(() if trusted is None else read_trusted(trusted))]))
    files = ReleaseFiles.read(release)
    open_release(files, keys)
    private_dir(home)
    if trusted is not None:
        write_trusted(home / TRUSTED, keys)
    ReleaseCache(home, home / TRUSTED).add(files)
    streaming = canonical_json(StreamingConfig()).decode() if protocol == "streaming" else None
    asked = {
        "release_id": files.id,
        "method": canonical_json(method).decode(),
        "protocol": protocol,
        "scenario": scenario,
        "streaming": streaming,
        "seed": seed,
    }
    cell = digest({**asked, "content": user.content_sha256, **result_identity()})
    request = Personalize.model_validate({**asked, "method_name": Path(method_name).stem, "cell": cell})
    settings = ClientSettings(home, home / TRUSTED, lambda _: Subject(user.user, recording), device, threads=1)
    return personalize_once(request, settings)


def check_choice(what: str, value: str, known: Sequence[str]) -> None:
    """Raise ConfigError that names the choices unless ``value`` is one."""
    if value not in known:
        raise ConfigError(f"unknown {what} '{value}'; choose one of {', '.join(known)}")
