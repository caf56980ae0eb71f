"""The simulated clients: the real ClientApp, playing whichever user a message names, with a home inside the run folder.

Node ids mean nothing here: users are dealt to however many nodes there are, and all nodes share one home, so a vault
survives any change of the node count.
"""

from __future__ import annotations

from functools import lru_cache

from flwr.app import Context

from emgup_client.app import ClientSettings, Subject, make_app
from emgup_model.data.store import SUFFIX
from emgup_model.errors import DataError
from emgup_simulation.experiment import store_path
from emgup_simulation.prepare import TRUSTED
from emgup_simulation.run_config import KEYS, read_run_config


def settings_from_context(context: Context) -> ClientSettings:
    """The settings of every simulated client of a run."""
    return _settings(*(str(context.run_config.get(key)) for key in KEYS))


@lru_cache(maxsize=8)
def _settings(experiment_name: str, overrides: str, out: str) -> ClientSettings:
    experiment, run = read_run_config({"experiment": experiment_name, "overrides": overrides, "out": out})
    store = store_path(experiment, run)

    def subject(user: str | None) -> Subject:
        if user is None:
            raise DataError("a simulated client has to be told whom to play")
        return Subject(user, store / f"{user}{SUFFIX}")

    return ClientSettings(
        home=run.client_home,
        trusted_keys=run.client_home / TRUSTED,
        subject=subject,
        device=experiment.federation.device,
        precision=experiment.compute.precision,
        threads=1,
    )


app = make_app(settings_from_context)
