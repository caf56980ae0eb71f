"""``vemg2pose``: the time-depth-separable feature network of emg2pose's vemg2pose (Salter et al., arXiv 2412.02725).

Time-depth-separable blocks are those of Hannun et al., arXiv 1904.02619. The pose decoder is left out: frames are
averaged over time and classified (docs/backbones.md). Written from the description; the size is the published one.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from emgup_model.backbones.base import Backbone, receptive_field
from emgup_model.backbones.norm import Norm, frame_norm
from emgup_model.backbones.scale import check_rate, check_window
from emgup_model.config import Frozen


class TdsStage(Frozen):
    """A strided convolution over time, and the time-depth-separable blocks behind it. Lengths in samples or frames."""

    kernel: int = Field(ge=1, le=1024)
    stride: int = Field(1, ge=1, le=1024)
    blocks: int = Field(0, ge=0, le=32)
    block_kernel: int = Field(1, ge=1, le=255, description="of the convolution inside a block")


class Vemg2poseConfig(Frozen):
    """The defaults are the published network for 2 kHz: one frame every 40 ms, each of which has seen 0.9 s."""

    kind: Literal["vemg2pose"] = "vemg2pose"
    sampling_rate_hz: float = Field(2000.0, gt=0, description="rate the kernels and strides are meant for")
    width: int = Field(256, ge=4, le=4096, description="features of a frame inside the network")
    block_channels: int = Field(16, ge=1, le=256, description="channels a block splits the features into")
    stages: tuple[TdsStage, ...] = Field(
        (
            TdsStage(kernel=11, stride=5),
            TdsStage(kernel=5, stride=2),
            TdsStage(kernel=17, stride=4, blocks=2, block_kernel=9),
            TdsStage(kernel=9, stride=2, blocks=2, block_kernel=5),
        ),
        min_length=1,
        max_length=16,
    )
    frame_dim: int = Field(64, ge=4, le=2048, description="features of a frame at the end")
    embedding_dim: int = Field(128, ge=4, le=2048, description="d")
    norm: Norm = Field("ln", description="ln = as published; bn = BatchNorm in its place")

    @model_validator(mode="after")
    def _divides(self) -> Vemg2poseConfig:
        if self.width % self.block_channels:
            raise ValueError(f"width must be a multiple of block_channels ({self.block_channels})")
        return self

    def steps(self) -> list[tuple[int, int]]:
        """(kernel, stride) of every convolution over time, in order."""
        return [step for s in self.stages for step in [(s.kernel, s.stride), *[(s.block_kernel, 1)] * s.blocks]]

    def check(self, window: int, channels: int, rate_hz: float) -> None:
        """Raise ConfigError unless such windows can be classified; any number of channels can."""
        check_rate(self.kind, self.sampling_rate_hz, rate_hz)
        check_window(self.kind, receptive_field(self.steps()), window)


class _Convolution(nn.Module):
    """Frames (B, T, F) to fewer frames (B, T', F'): convolution over time without padding, ReLU, norm."""

    def __init__(self, inputs: int, outputs: int, stage: TdsStage, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (1, stage.kernel), stride=(1, stage.stride))
        self.norm = frame_norm(norm, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(x.permute(0, 2, 1).unsqueeze(2))).squeeze(2).permute(0, 2, 1)
        return _normed(self.norm, y)


class _TdsConvolution(nn.Module):
    """Time-depth-separable convolution: over time, between ``channels`` groups of features; residual."""

    def __init__(self, width: int, channels: int, kernel: int, norm: Norm) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels, (kernel, 1))
        self.norm = frame_norm(norm, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, F = x.shape
        y = x.reshape(B, T, F // self.channels, self.channels).permute(0, 3, 1, 2)
        y = torch.relu(self.conv(y)).permute(0, 2, 3, 1).flatten(2)
        return _normed(self.norm, y + x[:, T - y.shape[1] :])


class _FullyConnected(nn.Module):
    """Two linear layers on every frame; residual."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norm = frame_norm(norm, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _normed(self.norm, x + self.layers(x))


def _normed(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = norm(x.flatten(0, 1)).view(x.shape)
    return out


class Vemg2pose(Backbone):
    """Frames (25 a second) → mean over time → Linear, norm, ReLU → classifier.

    Convolutions are 2-D ones in channels-last layout (docs/decisions/0003), which is also the layout
    that LayerNorm and the linear layers want: nothing is copied between them.
    """

    def __init__(self, config: Vemg2poseConfig, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for stage in config.stages:
            layers.append(_Convolution(inputs, config.width, stage, config.norm))
            inputs = config.width
            for _ in range(stage.blocks):
                layers.append(_TdsConvolution(inputs, config.block_channels, stage.block_kernel, config.norm))
                layers.append(_FullyConnected(inputs, config.norm))
        self.encoder = nn.Sequential(*layers, nn.Linear(inputs, config.frame_dim))
        self.project = nn.Linear(config.frame_dim, config.embedding_dim)
        self.norm = frame_norm(config.norm, config.embedding_dim)
        self.head = nn.Linear(config.embedding_dim, classes)
        self.embedding_dim = config.embedding_dim
        self.receptive_field = receptive_field(config.steps())
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Windows (B, C, W) to embeddings (B, d)."""
        z = self.encoder(x.permute(0, 2, 1).contiguous()).mean(dim=1)
        return torch.relu(self.norm(self.project(z)))

    @torch.no_grad()
    def mix_channels(self, matrix: torch.Tensor) -> None:
        """Change the first layer so that windows x are treated as ``matrix`` (C, C) @ x was before."""
        first = self.encoder[0]
        assert isinstance(first, _Convolution)
        first.conv.weight.copy_(torch.einsum("ojhk,ji->oihk", first.conv.weight, matrix))
