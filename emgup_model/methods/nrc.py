"""NRC: neighbourhood reciprocity clustering (Yang et al., NeurIPS 2021)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.methods.adabn import reestimate
from emgup_model.methods.base import Adapted, Target, copy_model, descend, embed_all, set_mode, shuffled
from emgup_model.methods.checkpoints import Loop, epochs
from emgup_model.methods.information import marginal_entropy


class NrcConfig(Frozen):
    """Neighbours vote for each other's predictions; neighbours in time do not count."""

    kind: Literal["nrc"] = "nrc"
    epochs: int = Field(15, ge=1, le=1000)
    batch_windows: int = Field(64, ge=2)
    learning_rate: float = Field(5e-4, gt=0, le=1)
    neighbours: int = Field(5, ge=1, description="K")
    expanded: int = Field(5, ge=1, description="M: neighbours of each neighbour")
    weak_weight: float = Field(0.1, ge=0, le=1, description="r: weight of non-reciprocal and of expanded neighbours")
    exclude_windows: int = Field(10, ge=0, description="windows of one recording closer than this are no neighbours")
    target_share: float = Field(1.0, ge=0, le=1, description="λ of BatchNorm statistics before training")
    batch_norm: Literal["batch", "frozen"] = "batch"


def nearest(z: torch.Tensor, target: Target, config: NrcConfig) -> torch.Tensor:
    """(N, max(K, M)) indices of the most similar windows of unit-norm embeddings (N, d), not adjacent in time."""
    w = target.windows
    similarity = z @ z.T
    close = (w.recording[:, None] == w.recording[None]) & (
        (w.position[:, None] - w.position[None]).abs() <= config.exclude_windows
    )
    similarity[close] = -torch.inf
    similarity.fill_diagonal_(-torch.inf)
    count = min(max(config.neighbours, config.expanded), len(z) - 1)
    return similarity.topk(count, dim=1).indices


def adapt(model: Backbone, target: Target, config: NrcConfig, seed: int) -> Adapted:
    """Train a copy so that reciprocal neighbours agree; banks hold every window of the user."""
    model = copy_model(model)
    generator = torch.Generator().manual_seed(seed)
    windows = target.windows
    if config.target_share:
        reestimate(model, windows, config.target_share)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    features, logits = embed_all(model, windows)
    features, probabilities = F.normalize(features, dim=1), logits.softmax(1)
    log: dict[str, Any] = {"steps": 0}
    banks = {"features": features, "probabilities": probabilities}
    loop = Loop({"model": model}, optimiser, generator, log, banks)
    for _ in epochs(config.epochs, target.checkpoints, "nrc", loop):
        near = nearest(features, target, config)
        set_mode(model, dropout=False, batch_statistics=config.batch_norm == "batch")
        for index in shuffled(len(windows), config.batch_windows, generator):
            if len(index) < 2:
                continue
            chosen = index.to(windows.starts.device)
            z = model.embed(windows.batch(chosen))
            out = model.classify(z)
            p = out.softmax(1)
            with torch.no_grad():
                features[chosen], probabilities[chosen] = F.normalize(z, dim=1), p
            loss = neighbour_loss(p, chosen, near, probabilities, config) - marginal_entropy(out)
            descend(optimiser, loss)
            log["steps"] += 1
    return Adapted(model.eval(), log)


def neighbour_loss(
    p: torch.Tensor, index: torch.Tensor, near: torch.Tensor, bank: torch.Tensor, config: NrcConfig
) -> torch.Tensor:
    """−E Σ_k A_k·B_kᵀp − r·E Σ_k Σ_m B_mᵀp − E sg(p)ᵀp.

    Args:
        p: (B, K) predictions of the batch, with gradient.
        index: (B,) their windows.
        near: (N, n) neighbours of every window.
        bank: (N, K) stored predictions, without gradient.
        config: K, M and r.
    """
    first = near[index, : config.neighbours]
    second = near[first, : config.expanded]
    reciprocal = (second == index[:, None, None]).any(-1)
    affinity = torch.where(reciprocal, 1.0, config.weak_weight)
    agree = (bank[first] * p[:, None]).sum(-1)
    wider = (bank[second] * p[:, None, None]).sum(-1)
    self_agreement = (p.detach() * p).sum(-1)
    votes = (affinity * agree).sum(1) + config.weak_weight * wider.sum((1, 2)) + self_agreement
    return -votes.mean()
