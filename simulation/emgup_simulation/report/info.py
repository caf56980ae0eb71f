"""What was run, on what, with which version: the head of the report, kept in RUN/run.json."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

import emgup_model
from emgup_model.compute import resolve_device
from emgup_model.config import Frozen, load_yaml
from emgup_model.data.folds import Fold
from emgup_model.errors import ConfigError, RunError
from emgup_model.files import write_atomic

FILE = "run.json"


class RunInfo(Frozen):
    """Head of a report. Everything is optional: what is not known is not shown.

    ``users`` are those that the run was to test: the test users of its folds, or of ``only_folds``.
    """

    title: str | None = None
    command: str | None = None
    version: str | None = None
    commit: str | None = None
    date: str | None = None
    device: str | None = None
    experiment: str | None = None
    learning_rate: float | None = None
    gestures: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


def write_run_info(run: Path, command: str, device: str = "cpu") -> None:
    """Note in RUN/run.json what starts now. The last start counts: it is the one that completed the run."""
    noted = {
        "command": command,
        "version": emgup_model.__version__,
        "commit": _commit(Path(emgup_model.__file__).resolve().parents[1]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": _device(device),
    }
    write_atomic(run / FILE, json.dumps(noted, indent=2) + "\n")


def read_run_info(run: Path) -> RunInfo:
    """What is known about a run folder: run.json, experiment.yaml, folds.json and a release's gesture names.

    Raises:
        RunError: one of these files is there but cannot be read.
    """
    noted = _json(run / FILE)
    known = {k: str(v) for k, v in noted.items() if k in ("command", "version", "commit", "date", "device") and v}
    experiment = _experiment(run / "experiment.yaml")
    rate = _dig(experiment, "methods", "emgup_paper", "ssa", "learning_rate")
    name = experiment.get("name")
    if not known.get("device") and (device := _dig(experiment, "federation", "device")):
        known["device"] = str(device)
    return RunInfo(
        **known,
        title=str(name) if name else None,
        experiment=(run / "experiment.yaml").read_text(encoding="utf-8") if experiment else None,
        learning_rate=float(rate) if isinstance(rate, int | float) else None,
        gestures=_gestures(run / "releases"),
        users=_users(run / "folds.json", experiment.get("only_folds")),
    )


def _experiment(path: Path) -> dict[str, Any]:
    try:
        return load_yaml(path) if path.exists() else {}
    except ConfigError as e:
        raise RunError(str(e)) from None


def _users(path: Path, only_folds: Any) -> tuple[str, ...]:
    """Test users of the folds that the experiment runs."""
    folds = _json(path).get("folds", [])
    try:
        known = [Fold.model_validate(fold) for fold in folds]
    except (ValidationError, TypeError):
        raise RunError(f"{path} does not hold folds; delete it and start the run again") from None
    chosen = only_folds if isinstance(only_folds, list) else [fold.index for fold in known]
    return tuple(sorted(user for fold in known if fold.index in chosen for user in fold.test))


def _gestures(releases: Path) -> tuple[str, ...]:
    for manifest in sorted(releases.glob("*/manifest.json")):
        names = _json(manifest).get("gestures")
        if isinstance(names, list):
            return tuple(str(n) for n in names)
    return ()


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as e:
        raise RunError(f"cannot read {path}: {e.strerror}") from None
    except ValueError:
        raise RunError(f"{path} is not valid JSON; delete it and start the run again") from None
    if not isinstance(data, dict):
        raise RunError(f"{path} must hold a JSON object; delete it and start the run again")
    return data


def _dig(data: Any, *keys: str) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _commit(source: Path) -> str | None:
    """Short commit of the source checkout this package runs from, None for an installed wheel."""
    if not (source / ".git").exists():
        return None
    try:
        out = subprocess.run(
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None


def _device(device: str) -> str:
    place = resolve_device(device)
    name = f"{place} ({torch.cuda.get_device_name(place)})" if place.type == "cuda" else str(place)
    return f"{name}; {os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}; torch {torch.__version__}"
