"""The interface every backbone offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Backbone(nn.Module, ABC):
    """A window classifier F = h∘f.

    Attributes:
        embedding_dim: d, width of an embedding.
        head: the linear classifier h: R^d → R^K; everything else is the feature extractor f.
    """

    embedding_dim: int
    head: nn.Linear

    @abstractmethod
    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Windows (B, C, W) to embeddings (B, d)."""

    @abstractmethod
    def mix_channels(self, matrix: torch.Tensor) -> None:
        """Change the first layer so that windows x are treated as ``matrix`` (C, C) @ x was before."""

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
