"""Source Only: the release as it is. The yardstick every other row is compared with."""

from __future__ import annotations

from typing import Literal

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.methods.base import Adapted, Target, copy_model


class SourceOnlyConfig(Frozen):
    """Nothing to set."""

    kind: Literal["source_only"] = "source_only"


def adapt(model: Backbone, target: Target, config: SourceOnlyConfig, seed: int) -> Adapted:
    """Return a copy of the source model."""
    return Adapted(copy_model(model).eval(), {"steps": 0})
