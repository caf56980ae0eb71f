"""Window classifiers behind one interface: ``embed`` (B, C, W) → (B, d) and ``classify`` (B, d) → (B, K)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from emgup_model.backbones.base import Backbone, Precision
from emgup_model.backbones.cnn import Cnn, CnnConfig
from emgup_model.backbones.neuropose import Neuropose, NeuroposeConfig
from emgup_model.backbones.vemg2pose import Vemg2pose, Vemg2poseConfig


def _kind(value: Any) -> str:
    return str(value.get("kind", "cnn") if isinstance(value, dict) else getattr(value, "kind", ""))


BackboneConfig = Annotated[
    Annotated[CnnConfig, Tag("cnn")]
    | Annotated[Vemg2poseConfig, Tag("vemg2pose")]
    | Annotated[NeuroposeConfig, Tag("neuropose")],
    Discriminator(_kind),
]
"""Any backbone's config; ``cnn`` when no kind is given."""


def build_backbone(config: BackboneConfig, channels: int, classes: int) -> Backbone:
    """Freshly initialised backbone; seed torch before calling for a reproducible one.

    Raises:
        ConfigError: the network cannot take so few channels.
    """
    if isinstance(config, Vemg2poseConfig):
        return Vemg2pose(config, channels, classes)
    if isinstance(config, NeuroposeConfig):
        return Neuropose(config, channels, classes)
    return Cnn(config, channels, classes)


__all__ = [
    "Backbone",
    "BackboneConfig",
    "Cnn",
    "CnnConfig",
    "Neuropose",
    "NeuroposeConfig",
    "Precision",
    "Vemg2pose",
    "Vemg2poseConfig",
    "build_backbone",
]
