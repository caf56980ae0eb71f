"""SHOT: information maximisation and prototype pseudo-labels, classifier frozen (Liang et al., ICML 2020)."""

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
from emgup_model.methods.information import entropy, marginal_entropy


class ShotConfig(Frozen):
    """SHOT with the BatchNorm policies that decide how it fares on EMG."""

    kind: Literal["shot"] = "shot"
    epochs: int = Field(15, ge=1, le=1000)
    batch_windows: int = Field(64, ge=2)
    learning_rate: float = Field(5e-4, gt=0, le=1, description="of the feature extractor; the classifier is frozen")
    pseudo_label_weight: float = Field(0.3, ge=0, description="β of the prototype labels' cross-entropy")
    diversity: bool = Field(True, description="also maximise the entropy of the mean prediction")
    target_share: float = Field(0.0, ge=0, le=1, description="λ of BatchNorm statistics before training; 1 = AdaBN")
    batch_norm: Literal["batch", "frozen"] = Field("frozen", description="during training")


def prototype_labels(z: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """(N,) gesture of the nearest class centroid by cosine, centroids weighted by p, then by the labels once more.

    Args:
        z: (N, d) embeddings.
        p: (N, K) class probabilities.
    """
    z = F.normalize(torch.cat([z, torch.ones_like(z[:, :1])], 1), dim=1)
    weights = p
    for _ in range(2):
        centroids = F.normalize(weights.T @ z, dim=1)
        similarity = z @ centroids.T
        similarity[:, weights.sum(0) < 1e-6] = -torch.inf
        labels = similarity.argmax(1)
        weights = F.one_hot(labels, p.shape[1]).to(z.dtype)
    return labels


def adapt(model: Backbone, target: Target, config: ShotConfig, seed: int) -> Adapted:
    """Train the feature extractor of a copy; pseudo-labels are renewed every epoch."""
    model = copy_model(model)
    generator = torch.Generator().manual_seed(seed)
    windows = target.windows
    if config.target_share:
        reestimate(model, windows, config.target_share)
    optimiser = torch.optim.Adam(model.feature_parameters(), lr=config.learning_rate)
    log: dict[str, Any] = {"steps": 0}
    for _ in epochs(config.epochs, target.checkpoints, "shot", Loop({"model": model}, optimiser, generator, log)):
        z, logits = embed_all(model, windows)
        labels = prototype_labels(z, logits.softmax(1))
        set_mode(model, dropout=False, batch_statistics=config.batch_norm == "batch")
        for index in shuffled(len(windows), config.batch_windows, generator):
            if len(index) < 2:
                continue
            chosen = index.to(windows.starts.device)
            out = model(windows.batch(chosen))
            loss = entropy(out).mean() + config.pseudo_label_weight * F.cross_entropy(out, labels[chosen])
            if config.diversity:
                loss = loss - marginal_entropy(out)
            descend(optimiser, loss)
            log["steps"] += 1
    return Adapted(model.eval(), log)
