"""``neuropose``: the 2-D convolutional encoder of NeuroPose (Liu et al., 2021) as emg2pose sizes it (arXiv 2412.02725).

A window is an image of time × electrodes. The decoder, which upsamples to joint angles, is left out: the map is
averaged and classified (docs/backbones.md). Written from the description; the size is the published one.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from emgup_model.backbones.base import Backbone, receptive_field
from emgup_model.backbones.norm import Norm, map_norm
from emgup_model.backbones.scale import check_rate, check_window
from emgup_model.config import Frozen
from emgup_model.errors import ConfigError

KERNEL = (3, 2)
"""Samples × electrodes of every convolution."""


class EncoderBlock(Frozen):
    """A convolution, and the max-pooling behind it."""

    filters: int = Field(ge=1, le=4096)
    pool_samples: int = Field(ge=1, le=1024)
    pool_channels: int = Field(ge=1, le=256)


class NeuroposeConfig(Frozen):
    """The defaults are the published encoder for 16 channels at 2 kHz: one frame every 160 ms."""

    kind: Literal["neuropose"] = "neuropose"
    sampling_rate_hz: float = Field(2000.0, gt=0, description="rate the pooling is meant for")
    encoder: tuple[EncoderBlock, ...] = Field(
        (
            EncoderBlock(filters=32, pool_samples=10, pool_channels=2),
            EncoderBlock(filters=128, pool_samples=8, pool_channels=2),
            EncoderBlock(filters=256, pool_samples=4, pool_channels=4),
        ),
        min_length=1,
        max_length=8,
    )
    residual_blocks: int = Field(5, ge=0, le=64)
    residual_convolutions: int = Field(3, ge=1, le=8, description="in each residual block")
    dropout: float = Field(0.05, ge=0, lt=1, description="in the encoder")
    embedding_dim: int = Field(128, ge=4, le=2048, description="d")
    norm: Norm = Field("bn", description="bn = as published; ln = LayerNorm over each window's map in its place")

    def check(self, window: int, channels: int, rate_hz: float) -> None:
        """Raise ConfigError unless such windows leave at least one frame and one column of electrodes."""
        check_rate(self.kind, self.sampling_rate_hz, rate_hz)
        check_window(self.kind, math.prod(b.pool_samples for b in self.encoder), window)
        self.check_channels(channels)

    def check_channels(self, channels: int) -> None:
        """Raise ConfigError if pooling leaves no column of electrodes."""
        pooled = math.prod(b.pool_channels for b in self.encoder)
        if channels < pooled:
            raise ConfigError(
                f"backbone neuropose pools {pooled} channels into one, the recordings have {channels}; set smaller "
                "pool_channels in backbone.encoder (docs/backbones.md)"
            )


class _SameConvolution(nn.Conv2d):
    """Keeps the sizes of (B, filters, samples, electrodes): zeros at both ends of time and after the last electrode."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[3] == 1:  # the kernel's second column would meet zeros only
            return F.conv2d(x, self.weight[..., :1], self.bias, padding=(1, 0))
        return F.conv2d(F.pad(x, (0, 1, 1, 1)), self.weight, self.bias)


class _Residual(nn.Module):
    """Convolution, norm and ReLU, some times over, added to the input."""

    def __init__(self, filters: int, convolutions: int, norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(convolutions):
            layers += [_SameConvolution(filters, filters), map_norm(norm, filters), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.layers(x)
        return out


class Neuropose(Backbone):
    """Encoder → residual blocks → mean over time and electrodes → Linear, ReLU → classifier.

    ``mix``: (C, C), the identity unless :meth:`mix_channels` changed it. Convolutions over electrodes share weights, so
    they cannot take up a change of channels themselves.
    """

    mix: torch.Tensor

    def __init__(self, config: NeuroposeConfig, channels: int, classes: int) -> None:
        config.check_channels(channels)
        super().__init__()
        layers: list[nn.Module] = []
        steps: list[tuple[int, int]] = []
        inputs = 1
        for block in config.encoder:
            layers += [
                _SameConvolution(inputs, block.filters),
                map_norm(config.norm, block.filters),
                nn.ReLU(),
                nn.Dropout(config.dropout),
                nn.MaxPool2d((block.pool_samples, block.pool_channels)),
            ]
            steps += [(KERNEL[0], 1), (block.pool_samples, block.pool_samples)]
            inputs = block.filters
        self.encoder = nn.Sequential(*layers)
        self.residual = nn.Sequential(
            *(_Residual(inputs, config.residual_convolutions, config.norm) for _ in range(config.residual_blocks))
        )
        self.project = nn.Linear(inputs, config.embedding_dim)
        self.head = nn.Linear(config.embedding_dim, classes)
        self.register_buffer("mix", torch.eye(channels))
        self.embedding_dim = config.embedding_dim
        steps += [(KERNEL[0], 1)] * (config.residual_blocks * config.residual_convolutions)
        self.receptive_field = receptive_field(steps)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Windows (B, C, W) to embeddings (B, d)."""
        image = (self.mix @ x).transpose(1, 2).unsqueeze(1).contiguous(memory_format=torch.channels_last)
        return torch.relu(self.project(self.residual(self.encoder(image)).mean(dim=(2, 3))))

    @torch.no_grad()
    def mix_channels(self, matrix: torch.Tensor) -> None:
        """Change what comes before the first layer so that windows x are treated as ``matrix`` (C, C) @ x was."""
        self.mix.copy_(self.mix @ matrix)
