"""A user's personalized model, found in the vault: release and weights are checked before they are used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from emgup_client.releases import ReleaseCache
from emgup_client.saved import SavedModel, saved_models, users_of
from emgup_model.backbones import Backbone
from emgup_model.errors import DataError
from emgup_model.personalize import check_finite
from emgup_model.release import ReleaseManifest

TRUSTED = "trusted_release_keys.txt"


@dataclass(frozen=True)
class PersonalizedModel:
    """A model ready for use, the manifest of its release, and what the vault says of its making."""

    user: str
    cell: str
    release_id: str
    model: Backbone
    manifest: ReleaseManifest
    evaluation: dict[str, Any]


def open_personalized(
    home: Path, user: str | None = None, cell: str | None = None, release: str | None = None
) -> PersonalizedModel:
    """The model that was saved last in ``home``'s vault, of those that are asked for.

    Args:
        home: the client's private folder.
        user: whose; None where the vault holds one user.
        cell: beginning of the cell's key; None = any.
        release: beginning of the release's id; None = any.

    Raises:
        DataError: there is no such model, or its weights do not fit their release.
        ReleaseError: the release is missing, damaged or not signed by a trusted key.
    """
    user = user or _only_user(home)
    found = [
        s for s in saved_models(home, user) if s.key.startswith(cell or "") and s.release_id.startswith(release or "")
    ]
    if not found:
        asked = " ".join(f"{what} {key}…" for what, key in (("cell", cell), ("release", release)) if key)
        raise DataError(f"no personalized model of user '{user}' {asked + ' ' if asked else ''}in {home / 'vault'}")
    return load_saved(home, found[-1])


def load_saved(home: Path, saved: SavedModel) -> PersonalizedModel:
    """The model of one complete cell. Raises DataError or ReleaseError."""
    release = ReleaseCache(home, home / TRUSTED).open(saved.release_id)
    try:
        release.model.load_state_dict(load_safetensors(saved.contents.weights))
    except (SafetensorError, RuntimeError):
        raise DataError(f"the weights of cell {saved.key} do not fit their release; personalize again") from None
    check_finite(release.model)
    release.model.precision = "bf16" if saved.contents.evaluation.get("precision") == "bf16" else "fp32"
    return PersonalizedModel(
        saved.user, saved.key, release.id, release.model, release.manifest, saved.contents.evaluation
    )


def _only_user(home: Path) -> str:
    users = users_of(home)
    if not users:
        raise DataError(f"{home / 'vault'} holds no personalized model; personalize first")
    if len(users) > 1:
        raise DataError(f"{home / 'vault'} holds several users; choose one with --user: {', '.join(users[:10])}")
    return users[0]
