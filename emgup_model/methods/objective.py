"""What the second stage and the gain alignment minimise: fit the pseudo-labels, decide clearly, use every gesture."""

from __future__ import annotations

import torch
from pydantic import Field
from torch.nn import functional as F

from emgup_model.config import Frozen
from emgup_model.methods.information import entropy


class ObjectiveConfig(Frozen):
    """Weights of the terms."""

    label_weight: float = Field(0.3, ge=0, description="of the cross-entropy with the soft pseudo-labels")
    entropy_weight: float = Field(1.0, ge=0, description="of the predictions' mean entropy")
    diversity_weight: float = Field(1.0, ge=0, description="of KL(mean prediction ‖ class prior)")
    confidence: float = Field(0.0, ge=0, lt=1, description="labels below this probability count nothing")


def objective(
    logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor, seen: torch.Tensor | None, config: ObjectiveConfig
) -> torch.Tensor:
    """Scalar loss of a batch.

    Args:
        logits: (B, K).
        labels: (B, K) soft pseudo-labels.
        prior: (K,) class prior that the mean prediction should have.
        seen: (K,) bool, gestures to decide among, so that the others' logits are left alone; None = all.
        config: weights.
    """
    counts = (labels.amax(1) > config.confidence).to(logits.dtype)
    if seen is not None:
        counts = counts * seen[labels.argmax(1)]  # a label on an unseen gesture says nothing about the others
        logits = logits.masked_fill(~seen, -30.0)
        labels = labels * seen
        labels = labels / labels.sum(1, keepdim=True).clamp_min(1e-6)
        prior = prior * seen / (prior * seen).sum().clamp_min(1e-6)
    log_p = F.log_softmax(logits, 1)
    loss = -config.label_weight * (counts * (labels * log_p).sum(1)).sum() / counts.sum().clamp_min(1)
    if config.entropy_weight:
        loss = loss + config.entropy_weight * entropy(logits).mean()
    if config.diversity_weight:
        mean = log_p.exp().mean(0).clamp_min(1e-8)
        loss = loss + config.diversity_weight * (mean * (mean.log() - prior.clamp_min(1e-4).log())).sum()
    return loss
