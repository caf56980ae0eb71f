"""What was run, on what, with which code: the head of the report, kept in RUN/run.json."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

import emgup_model
from emgup_model.compute import resolve_device
from emgup_model.config import Frozen, dump_yaml, load_yaml
from emgup_model.data.folds import Fold
from emgup_model.errors import ConfigError, RunError
from emgup_model.evaluation.results import ResultRow
from emgup_model.files import write_atomic
from emgup_model.provenance import origin
from emgup_simulation.differences import describe, first_difference
from emgup_simulation.report.made import Made, Results, rows_sha256

FILE, RESULTS = "run.json", "results"


class RunInfo(Frozen):
    """Head of a report. Everything is optional: what is not known is not shown.

    Attributes:
        title, experiment, learning_rate: of the experiment that made the results, where that is recorded.
        command, version, commit, date, device: of the run's last start.
        made_by: code and libraries of the results' cells.
        unsure: why the results are not those of experiment.yaml, in one sentence.
        users: those that the run was to test: the test users of its folds, or of ``only_folds``.
    """

    title: str | None = None
    command: str | None = None
    version: str | None = None
    commit: str | None = None
    date: str | None = None
    device: str | None = None
    experiment: str | None = None
    made_by: tuple[Made, ...] = ()
    unsure: str | None = None
    learning_rate: float | None = None
    gestures: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


def write_run_info(run: Path, command: str, device: str = "cpu") -> None:
    """Note in RUN/run.json what starts now; what made the results that are there stays noted."""
    made = origin()
    noted = {
        **{RESULTS: _json(run / FILE).get(RESULTS, [])},
        "command": command,
        "version": emgup_model.__version__,
        "commit": (made.commit or "") + ("-dirty" if made.uncommitted else ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": _device(device),
    }
    write_atomic(run / FILE, json.dumps(noted, indent=2) + "\n")


def note_results(run: Path, experiment: Mapping[str, Any], rows: Iterable[ResultRow], made: Sequence[Made]) -> None:
    """Note in RUN/run.json what made the results that are about to be written.

    What is noted of the results that are still there stays beside it, so that a kill in between leaves no doubt.
    """
    noted = Results(rows_sha256=rows_sha256(rows), experiment=dict(experiment), made_by=tuple(made))
    known = [r for r in _noted_results(run) if r.rows_sha256 != noted.rows_sha256]
    kept = {k: v for k, v in _json(run / FILE).items() if k != RESULTS}
    results = [r.model_dump(mode="json") for r in (noted, *known[:1])]
    write_atomic(run / FILE, json.dumps({**kept, RESULTS: results}, indent=2) + "\n")


def results_of(run: Path, rows: Iterable[ResultRow]) -> Results | None:
    """What made these rows, as noted in RUN/run.json; None where nothing is noted of them. Raises RunError."""
    noted = _noted_results(run)
    wanted = rows_sha256(rows) if noted else ""
    return next((r for r in noted if r.rows_sha256 == wanted), None)


def read_run_info(run: Path, rows: Iterable[ResultRow] = ()) -> RunInfo:
    """What is known about a run folder and its results: run.json, experiment.yaml, folds.json, a release's gestures.

    Args:
        run: the folder.
        rows: its results, if there are any.

    Raises:
        RunError: one of these files is there but cannot be read.
    """
    noted, rows = _json(run / FILE), list(rows)
    known = {k: str(v) for k, v in noted.items() if k in ("command", "version", "commit", "date", "device") and v}
    latest, results = _experiment(run / "experiment.yaml"), results_of(run, rows)
    unsure = _unsure(latest, results) if rows else None
    other = results if unsure is not None else None  # not what experiment.yaml holds
    experiment = latest if other is None else other.experiment
    rate = _dig(experiment, "methods", "emgup_paper", "ssa", "learning_rate")
    name = experiment.get("name")
    if not known.get("device") and (device := _dig(experiment, "federation", "device")):
        known["device"] = str(device)
    return RunInfo(
        **known,
        title=str(name) if name else None,
        experiment=dump_yaml(experiment) if other else _text(run / "experiment.yaml"),
        made_by=() if results is None else results.made_by,
        unsure=unsure,
        learning_rate=float(rate) if isinstance(rate, int | float) else None,
        gestures=_gestures(run / "releases"),
        # the split may be that of the new experiment
        users=() if other else _users(run / "folds.json", experiment.get("only_folds")),
    )


def _unsure(latest: Mapping[str, Any], results: Results | None) -> str | None:
    """Why the results are not those of the experiment that experiment.yaml holds, in one sentence; None if they are."""
    if not latest:
        return None
    if results is None:
        return "nothing in run.json says which configuration made results.csv; run the experiment again"
    if (difference := first_difference(results.experiment, latest)) is None:
        return None
    return (
        f"results.csv was made by another configuration than experiment.yaml says: {describe(difference)}; "
        "the results are shown with their own, run the experiment again to complete the new one"
    )


def _noted_results(run: Path) -> list[Results]:
    noted = _json(run / FILE).get(RESULTS, [])
    try:
        return [Results.model_validate(r) for r in noted]
    except (ValidationError, TypeError):
        raise RunError(f"{run / FILE} does not say what made the results; delete it and start the run again") from None


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


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


def _device(device: str) -> str:
    place = resolve_device(device)
    name = f"{place} ({torch.cuda.get_device_name(place)})" if place.type == "cuda" else str(place)
    return f"{name}; {os.cpu_count()} CPU cores, {platform.machine()}, {platform.system()}; torch {torch.__version__}"
