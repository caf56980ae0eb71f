"""The ClientApp of a deployed client: one user, one recording file, methods as this installation ships them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from emgup_client.app import ClientSettings, Subject, make_app
from emgup_client.deployment.config import ClientConfig, ClientHome, choose_device
from emgup_client.deployment.task import HOME
from emgup_client.egress.policy import read_policy
from emgup_model.errors import ConfigError, DataError
from emgup_model.methods import MethodConfig, load_method


@lru_cache(maxsize=1)
def settings() -> ClientSettings:
    """The settings of the client whose folder the environment names."""
    home = ClientHome(Path(os.environ[HOME]))
    config = home.config()

    def subject(user: str | None) -> Subject:
        if user is not None:
            raise DataError("a deployed client is not told whom to play")
        return Subject(config.user, config.recordings)

    return ClientSettings(
        home=home.path,
        trusted_keys=home.trusted,
        subject=subject,
        device=choose_device(config.device),
        precision=config.precision,
        threads=config.threads,
        allowed=lambda name, method: check_method(config, name, method),
        policy=read_policy(home.policy),
    )


def check_method(config: ClientConfig, name: str, method: MethodConfig) -> None:
    """Raise ConfigError unless the method is one of the user's list, with the settings that are shipped here."""
    if name not in config.methods or method != load_method(name):
        raise ConfigError("the requested method or its settings are not among those that this client runs")


def settings_from_context(_: Context) -> ClientSettings:
    """Whatever the run's config says."""
    return settings()


app = make_app(settings_from_context)
