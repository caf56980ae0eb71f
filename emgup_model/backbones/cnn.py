"""``cnn``: a small window-level convolutional network with BatchNorm, for 8-channel, 200 Hz armbands."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from torch import nn

from emgup_model.backbones.base import Backbone, receptive_field
from emgup_model.backbones.norm import Norm, frame_norm, map_norm
from emgup_model.config import Frozen


class CnnConfig(Frozen):
    """Three convolution blocks over time, mean over time, a linear embedding."""

    kind: Literal["cnn"] = "cnn"
    width: int = Field(64, ge=4, le=1024, description="filters in each block")
    kernel: int = Field(5, ge=1, le=63, description="filter length in samples; odd")
    embedding_dim: int = Field(64, ge=4, le=2048, description="d")
    dropout: float = Field(0.1, ge=0, lt=1, description="before the embedding, in source training")
    norm: Norm = Field("bn", description="BatchNorm, or LayerNorm over each window's map in its place")

    @model_serializer(mode="wrap")
    def _named_as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``norm`` where it is the default, so that releases made before it existed keep their names."""
        data: dict[str, Any] = plain(self)
        return {key: value for key, value in data.items() if (key, value) != ("norm", "bn")}

    def check(self, window: int, channels: int, rate_hz: float) -> None:
        """Any windows will do."""


class Cnn(Backbone):
    """3 × (convolution, norm, ReLU, max-pool 2) → mean over time → Linear, norm, ReLU → classifier.

    The 1-D convolutions are written as (1 × k) 2-D ones in channels-last layout, which is faster on CPUs
    (docs/decisions/0003).
    """

    def __init__(self, config: CnnConfig, channels: int, classes: int) -> None:
        super().__init__()
        w, k = config.width, config.kernel
        blocks: list[nn.Module] = []
        for inputs in (channels, w, w):
            blocks += [
                nn.Conv2d(inputs, w, (1, k), padding=(0, k // 2), bias=False),
                map_norm(config.norm, w),
                nn.ReLU(),
                nn.MaxPool2d((1, 2), ceil_mode=True),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(w, config.embedding_dim, bias=False)
        self.norm = frame_norm(config.norm, config.embedding_dim)
        self.head = nn.Linear(config.embedding_dim, classes)
        self.embedding_dim = config.embedding_dim
        self.receptive_field = receptive_field([(k, 1), (2, 2)] * 3)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Windows (B, C, W) to embeddings (B, d)."""
        x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        z = self.blocks(x).mean(dim=(2, 3))
        z = self.norm(self.project(self.dropout(z)))
        return torch.relu(z)

    @torch.no_grad()
    def mix_channels(self, matrix: torch.Tensor) -> None:
        """Change the first layer so that windows x are treated as ``matrix`` (C, C) @ x was before."""
        first = self.blocks[0]
        assert isinstance(first, nn.Conv2d)
        first.weight.copy_(torch.einsum("ojhk,ji->oihk", first.weight, matrix))
