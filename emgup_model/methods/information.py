"""Information measures on logits that several methods share."""

from __future__ import annotations

import torch


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """(N,) entropy of each prediction in nats, from logits (N, K)."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def marginal_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the mean prediction of a batch in nats, from logits (N, K)."""
    p = logits.softmax(-1).mean(0)
    return -(p * p.clamp_min(1e-8).log()).sum()
