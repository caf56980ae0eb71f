"""Window classifiers behind one interface: ``embed`` (B, C, W) → (B, d) and ``classify`` (B, d) → (B, K)."""

from emgup_model.backbones.base import Backbone
from emgup_model.backbones.cnn import Cnn, CnnConfig

BackboneConfig = CnnConfig


def build_backbone(config: BackboneConfig, channels: int, classes: int) -> Backbone:
    """Freshly initialised backbone; seed torch before calling for a reproducible one."""
    return Cnn(config, channels, classes)


__all__ = ["Backbone", "BackboneConfig", "Cnn", "CnnConfig", "build_backbone"]
