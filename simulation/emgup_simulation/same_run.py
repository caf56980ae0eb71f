"""Whether a run folder's results are those of the experiment that is to be run into it, or would be lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emgup_model.config import load_yaml
from emgup_model.errors import ConfigError, RunError
from emgup_model.evaluation.results import read_results
from emgup_simulation.differences import describe, first_difference
from emgup_simulation.experiment import Experiment, resolved
from emgup_simulation.report.info import results_of


def check_same(experiment: Experiment, run: Path, replace: bool = False) -> None:
    """Refuse an experiment that would drop rows of the results in the folder ``run``.

    Rows are dropped where anything that determines them differs; more seeds, source seeds, methods, protocols,
    scenarios or folds only add to them. A folder with cells and no results yet counts as well.

    Args:
        experiment: what is to be run.
        run: folder of a run or of a tuning.
        replace: accept it; results are rewritten then, cells are kept.

    Raises:
        RunError: with the first key that differs, and what to do.
    """
    if replace or (before := _before(run)) is None:
        return
    if (lost := first_difference(before, resolved(experiment).model_dump(mode="json"), growth=True)) is not None:
        raise RunError(
            f"{run} holds the results of another experiment: {describe(lost)}; choose another --out, or rewrite the "
            "results with --replace (flwr run: replace=true), which keeps finished cells"
        )


def _before(run: Path) -> Mapping[str, Any] | None:
    """The experiment that made the folder's results, else that of its cells; None where there is neither."""
    results, config = run / "results.csv", run / "experiment.yaml"
    if results.exists():
        try:
            if (known := results_of(run, read_results(results))) is not None:
                return known.experiment
        except RunError:  # of another version, or damaged
            pass
    elif not any((run / "cells").glob("*.json")):
        return None
    try:
        return load_yaml(config) if config.exists() else None
    except ConfigError as e:
        raise RunError(str(e)) from None
