"""State of personalization as the page shows it, read from the client's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emgup_client.saved import SavedModel, saved_models, under_way, users_of
from emgup_client.vault import VAULT
from emgup_client.vault_cipher import read_settings
from emgup_model.errors import VaultError


def personalization_state(home: Path) -> dict[str, Any]:
    """Users, their models and what is under way, and how the vault is kept; plain data."""
    try:
        users = [
            {"user": u, "models": [_row(s) for s in reversed(saved_models(home, u))], "under_way": under_way(home, u)}
            for u in users_of(home)
        ]
        settings = read_settings(home / VAULT)
    except VaultError as e:
        return {"home": str(home), "users": [], "encryption": None, "problem": str(e)}
    encryption = settings and {"keyring": "key in the system's keyring", "file": "key in a file"}[settings.key.kind]
    return {"home": str(home), "users": users, "encryption": encryption, "problem": None}


def _row(saved: SavedModel) -> dict[str, Any]:
    kept = saved.contents.evaluation
    log = kept.get("log")
    return {
        "cell": saved.key,
        "saved": saved.saved,
        "release": saved.release_id,
        "method": kept.get("method"),
        "decision": log.get("decision") if isinstance(log, dict) else None,
        "changed": kept.get("predictions_changed"),
        "seconds": kept.get("adapt_seconds"),
        "bytes": len(saved.contents.weights),
    }
