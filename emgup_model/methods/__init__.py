"""Adaptation methods: one file each, one registry, one interface without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, RootModel

from emgup_model.backbones import Backbone
from emgup_model.config import find_config, load_yaml, parse
from emgup_model.methods import adabn, emgup, nrc, shot, source_only, tent
from emgup_model.methods.adabn import AdaBnConfig
from emgup_model.methods.base import Adapt, Adapted, Target, predict_logits
from emgup_model.methods.emgup import EmgupConfig
from emgup_model.methods.nrc import NrcConfig
from emgup_model.methods.shot import ShotConfig
from emgup_model.methods.source_only import SourceOnlyConfig
from emgup_model.methods.tent import TentConfig

MethodConfig = Annotated[
    SourceOnlyConfig | AdaBnConfig | EmgupConfig | ShotConfig | TentConfig | NrcConfig, Field(discriminator="kind")
]

METHODS: dict[str, Adapt] = {
    "source_only": source_only.adapt,
    "adabn": adabn.adapt,
    "emgup": emgup.adapt,
    "shot": shot.adapt,
    "tent": tent.adapt,
    "nrc": nrc.adapt,
}


class _Method(RootModel[MethodConfig]):
    """Lets the generic config reader validate the union."""


def parse_method(data: Any, where: str) -> MethodConfig:
    """Validate plain data as a method's config. Raises ConfigError with one line."""
    return parse(_Method, data, where).root


def load_method(name: str | Path) -> MethodConfig:
    """A shipped method by name (``emgup_paper``), or one from a YAML file."""
    path = find_config("methods", name)
    return parse_method(load_yaml(path), str(path))


def adapt(model: Backbone, target: Target, config: MethodConfig, seed: int) -> Adapted:
    """Run the method that ``config`` describes; source model and global random state are left as they were."""
    with torch.random.fork_rng(devices=[]):
        return METHODS[config.kind](model, target, config, seed)


__all__ = [
    "METHODS",
    "AdaBnConfig",
    "Adapted",
    "EmgupConfig",
    "MethodConfig",
    "NrcConfig",
    "ShotConfig",
    "SourceOnlyConfig",
    "Target",
    "TentConfig",
    "adapt",
    "load_method",
    "parse_method",
    "predict_logits",
]
