"""Normalisation layers behind one switch: statistics of the batch (BatchNorm) or of each window (LayerNorm)."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["bn", "ln"]


def frame_norm(norm: Norm, width: int) -> nn.Module:
    """For frames (N, width): BatchNorm over the N, or LayerNorm over the features of each frame."""
    return nn.BatchNorm1d(width) if norm == "bn" else nn.LayerNorm(width)


def map_norm(norm: Norm, filters: int) -> nn.Module:
    """For feature maps (B, filters, H, W): BatchNorm, or LayerNorm over each window's whole map (one group)."""
    return nn.BatchNorm2d(filters) if norm == "bn" else nn.GroupNorm(1, filters)
