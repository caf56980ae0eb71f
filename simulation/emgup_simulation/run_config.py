"""What `flwr run simulation --run-config …` says, read the same way by the ServerApp and the simulated clients."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from emgup_model.errors import ConfigError
from emgup_simulation.experiment import Experiment, RunFolder, default_run_folder, load_experiment

KEYS = ("experiment", "overrides", "out")
COMMAND = "EMGUP_COMMAND"
"""Environment variable with the command that the user typed, for the report's head."""
AGAIN = "EMGUP_AGAIN"
"""Environment variable, set when a driver starts the runtime again: cells that failed in this run are left alone."""


def read_replace(run_config: Mapping[str, Any]) -> bool:
    """Whether another experiment's results in the run folder may be rewritten. Raises ConfigError."""
    value = run_config.get("replace", False)
    if not isinstance(value, bool):
        raise ConfigError(f"run-config replace = {value!r} must be true or false")
    return value


def read_run_config(run_config: Mapping[str, Any]) -> tuple[Experiment, RunFolder]:
    """The experiment and the run folder that a run-config names. Raises ConfigError."""
    values = {key: run_config.get(key) for key in KEYS}
    for key, value in values.items():
        if not isinstance(value, str):
            raise ConfigError(f"run-config {key} = {value!r} must be a text in quotes")
    try:
        overrides = shlex.split(str(values["overrides"]))
    except ValueError as error:
        raise ConfigError(f"run-config overrides: {error}") from None
    experiment = load_experiment(str(values["experiment"]), overrides)
    return experiment, default_run_folder(experiment, str(values["out"]) or None)
