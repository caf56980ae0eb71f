"""What the second stage minimises: fit the pseudo-labels, decide clearly, use every gesture."""

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


def objective(logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor, config: ObjectiveConfig) -> torch.Tensor:
    """Scalar loss of a batch.

    Args:
        logits: (B, K).
        labels: (B, K) soft pseudo-labels.
        prior: (K,) class prior that the mean prediction should have.
        config: weights.
    """
    log_p = F.log_softmax(logits, 1)
    loss = -config.label_weight * (labels * log_p).sum(1).mean()
    if config.entropy_weight:
        loss = loss + config.entropy_weight * entropy(logits).mean()
    if config.diversity_weight:
        mean = log_p.exp().mean(0).clamp_min(1e-8)
        loss = loss + config.diversity_weight * (mean * (mean.log() - prior.clamp_min(1e-4).log())).sum()
    return loss
