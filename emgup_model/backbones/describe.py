"""What a backbone is made of and what it costs, for one size of window."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from emgup_model.backbones import Backbone, BackboneConfig, CnnConfig, build_backbone
from emgup_model.config import Frozen

CNN_RATE_HZ = 200.0
"""``cnn`` is not scaled for any rate; this is the one it was made at."""
MANY_CHANNELS_FROM_HZ = 1000.0


class Shape(Frozen):
    """What goes into a backbone and comes out of it."""

    channels: int = Field(ge=1, le=4096)
    classes: int = Field(ge=2, le=100_000)
    window: int = Field(ge=4, le=1_000_000, description="samples")
    rate_hz: float = Field(gt=0, le=1_000_000)


def usual_shape(config: BackboneConfig) -> dict[str, Any]:
    """One second at the backbone's rate; 16 channels and 17 gestures if that is fast (emg2pose), else 8 and 7 (Myo)."""
    rate = CNN_RATE_HZ if isinstance(config, CnnConfig) else config.sampling_rate_hz
    channels, classes = (16, 17) if rate >= MANY_CHANNELS_FROM_HZ else (8, 7)
    return {"channels": channels, "classes": classes, "window": round(rate), "rate_hz": rate}


@dataclass(frozen=True)
class Description:
    """Facts of a backbone at one shape.

    Attributes:
        parameters: by part of the network, in order.
        norms: normalisation layers by kind.
        receptive_field: samples that one frame sees, before the mean over time.
        multiply_adds: of one window's forward pass (convolutions and matrix products).
    """

    parameters: dict[str, int]
    norms: dict[str, int]
    receptive_field: int
    multiply_adds: int


def describe(config: BackboneConfig, shape: Shape) -> Description:
    """Build the backbone, count, and pass one window through it.

    Raises:
        ConfigError: the backbone cannot take such windows.
    """
    config.check(shape.window, shape.channels, shape.rate_hz)
    model = build_backbone(config, shape.channels, shape.classes).eval()
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    norms = Counter(type(m).__name__ for m in model.modules() if isinstance(m, _BatchNorm | nn.LayerNorm))
    return Description(
        {name: count for name, count in parts.items() if count},
        dict(norms),
        model.receptive_field,
        count_multiply_adds(model, shape),
    )


def count_multiply_adds(model: Backbone, shape: Shape) -> int:
    """Of one window's forward pass; a multiplication and the addition of its product are one operation."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, shape.channels, shape.window))
    return int(counter.get_total_flops()) // 2
