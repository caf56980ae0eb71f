"""Normalisation layers behind one switch: statistics of the batch (BatchNorm) or of each window (LayerNorm)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

Norm = Literal["bn", "ln"]


def frame_norm(norm: Norm, width: int) -> nn.Module:
    """For frames (N, width): BatchNorm over the N, or LayerNorm over the features of each frame."""
    return nn.BatchNorm1d(width) if norm == "bn" else nn.LayerNorm(width)


class MapLayerNorm(nn.LayerNorm):
    """Mean and variance over the whole map (F, H, W) of each window, scale and shift per filter.

    The same as ``GroupNorm(1, F)``, whose backward pass crashes on channels-last input without a gradient (torch 2.13).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, F, H, W) to the same; channels-last input is not copied."""
        last = x.permute(0, 2, 3, 1)
        assert self.weight is not None
        out = F.layer_norm(last, last.shape[1:], eps=self.eps) * self.weight + self.bias
        return out.permute(0, 3, 1, 2)


def map_norm(norm: Norm, filters: int) -> nn.Module:
    """For feature maps (B, filters, H, W): BatchNorm, or LayerNorm over each window's whole map."""
    return nn.BatchNorm2d(filters) if norm == "bn" else MapLayerNorm(filters)
