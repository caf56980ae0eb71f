"""The interface every backbone offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]
"""Of the feature extractor's arithmetic; parameters, embeddings and everything after them are float32 either way."""


class Backbone(nn.Module, ABC):
    """A window classifier F = h∘f.

    Attributes:
        embedding_dim: d, width of an embedding.
        head: the linear classifier h: R^d → R^K; everything else is the feature extractor f.
        receptive_field: samples that one frame of features sees, before the mean over time.
        precision: of f's arithmetic; no part of the weights.
    """

    embedding_dim: int
    head: nn.Linear
    receptive_field: int
    precision: Precision = "fp32"

    @abstractmethod
    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Windows (B, C, W) to embeddings (B, d), in whatever precision is in force."""

    @abstractmethod
    def mix_channels(self, matrix: torch.Tensor) -> None:
        """Change the first layer so that windows x are treated as ``matrix`` (C, C) @ x was before."""

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Windows (B, C, W) to float32 embeddings (B, d), computed in ``precision``."""
        if self.precision == "fp32":
            return self.features(x)
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.features(x).float()

    def classify(self, z: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, d) to logits (B, K)."""
        logits: torch.Tensor = self.head(z)
        return logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Windows (B, C, W) to logits (B, K)."""
        return self.classify(self.embed(x))

    def feature_parameters(self) -> list[nn.Parameter]:
        """Parameters of f: all but the classifier's."""
        head = {id(p) for p in self.head.parameters()}
        return [p for p in self.parameters() if id(p) not in head]


def receptive_field(steps: Iterable[tuple[int, int]]) -> int:
    """Samples seen by one output of a chain of (kernel, stride) steps over time."""
    field, jump = 1, 1
    for kernel, stride in steps:
        field += (kernel - 1) * jump
        jump *= stride
    return field
