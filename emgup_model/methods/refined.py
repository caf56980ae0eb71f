"""SSP with refined pseudo-labels: smoothed over neighbouring windows, corrected by class prototypes, prior estimated.

What the published second stage leaves on the table on armband data: (1) a gesture is held, so predictions of
neighbouring windows of one recording belong together; (2) the classes of a new user form clusters whose centres are
better labels than the source classifier's own decisions (as in SHOT, Liang et al., ICML 2020); (3) a regulariser that
asks for balanced predictions has to know how unbalanced the user's data is (label-shift estimation, Saerens et al.,
Neural Computation 14, 2002).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.methods.base import Target, descend, embed_all, set_mode, shuffled
from emgup_model.methods.information import entropy
from emgup_model.methods.shot import prototype_labels


class RefinedSspConfig(Frozen):
    """Stage 2 at full strength; the classifier stays the source's."""

    kind: Literal["refined"] = "refined"
    epochs: int = Field(15, ge=0, le=1000)
    batch_windows: int = Field(64, ge=2)
    learning_rate: float = Field(5e-4, gt=0, le=1, description="of the feature extractor")
    smoothing_windows: int = Field(
        10, ge=0, description="log-probabilities are averaged over this many windows to either side in one recording"
    )
    label_weight: float = Field(0.3, ge=0, description="of the cross-entropy with the refined labels")
    entropy_weight: float = Field(1.0, ge=0, description="of the predictions' mean entropy")
    diversity_weight: float = Field(1.0, ge=0, description="of KL(mean prediction ‖ class prior)")
    prior: Literal["uniform", "estimated"] = Field(
        "uniform", description="class prior of the user's data: uniform, or estimated by EM in every epoch"
    )


def smooth(p: torch.Tensor, windows: WindowedUser, reach: int, floor: float = 1e-3) -> torch.Tensor:
    """Geometric mean of class probabilities over ± ``reach`` windows of the same recording, renormalised.

    Args:
        p: (N, K) class probabilities in recording order.
        windows: the N windows.
        reach: windows to either side; at the ends of a recording fewer are averaged.
        floor: added to p, so that one confident mistake does not outvote its neighbours.
    """
    if reach == 0 or len(p) == 0:
        return p
    total = torch.cat([torch.zeros_like(p[:1]), (p + floor).log().cumsum(0)])
    here = torch.arange(len(p), device=p.device)
    change = torch.nonzero(windows.recording[1:] != windows.recording[:-1]).flatten() + 1
    edges = torch.cat([change.new_zeros(1), change, change.new_tensor([len(p)])])
    run = torch.bucketize(here, edges, right=True) - 1
    low = torch.maximum(here - reach, edges[run])
    high = torch.minimum(here + reach + 1, edges[run + 1])
    return ((total[high] - total[low]) / (high - low).unsqueeze(1)).softmax(1)


def estimate_prior(p: torch.Tensor, iterations: int = 50) -> torch.Tensor:
    """(K,) class prior of the target by EM, from (N, K) posteriors of a model trained on balanced classes."""
    prior = torch.full_like(p[0], 1 / p.shape[1])
    for _ in range(iterations):
        weighted = p * prior
        prior = (weighted / weighted.sum(1, keepdim=True)).mean(0)
    return prior


def refined_labels(
    z: torch.Tensor, p: torch.Tensor, windows: WindowedUser, config: RefinedSspConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) gesture of each window, and the (K,) class prior to regularise towards.

    Args:
        z: (N, d) embeddings.
        p: (N, K) class probabilities.
        windows: the N windows, in recording order.
        config: smoothing and prior.
    """
    smoothed = smooth(p, windows, config.smoothing_windows)
    labels = prototype_labels(z, smoothed)
    votes = F.one_hot(labels, p.shape[1]).to(p.dtype)
    labels = smooth(votes, windows, config.smoothing_windows).argmax(1)
    if config.prior == "uniform":
        return labels, torch.full_like(p[0], 1 / p.shape[1])
    return labels, estimate_prior(smoothed)


def regularised_loss(
    logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor, config: RefinedSspConfig
) -> torch.Tensor:
    """Cross-entropy with labels (B,) + entropy of the logits (B, K) + KL(batch mean ‖ prior (K,)), weighted."""
    mean = logits.softmax(1).mean(0).clamp_min(1e-8)
    divergence = (mean * (mean.log() - prior.clamp_min(1e-4).log())).sum()
    return (
        config.label_weight * F.cross_entropy(logits, labels)
        + config.entropy_weight * entropy(logits).mean()
        + config.diversity_weight * divergence
    )


def run_refined_ssp(
    model: Backbone,
    target: Target,
    config: RefinedSspConfig,
    *,
    frozen_bn: bool,
    gradients: bool,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Train the feature extractor of ``model`` in place on labels that are refined again every epoch. Returns a log."""
    windows = target.windows
    optimiser = torch.optim.Adam(model.feature_parameters(), lr=config.learning_rate)
    log: dict[str, Any] = {"steps": 0, "loss": [], "prior": []}
    for _ in range(config.epochs):
        z, logits = embed_all(model, windows)
        labels, prior = refined_labels(z, logits.softmax(1), windows, config)
        set_mode(model, dropout=False, batch_statistics=not frozen_bn)
        losses = []
        for index in shuffled(len(windows), config.batch_windows, generator):
            if len(index) < 2:
                continue
            chosen = index.to(windows.starts.device)
            with torch.set_grad_enabled(gradients):
                loss = regularised_loss(model(windows.batch(chosen)), labels[chosen], prior, config)
            if gradients:
                descend(optimiser, loss)
            losses.append(loss.detach())
            log["steps"] += 1
        if losses:
            log["loss"].append(float(torch.stack(losses).mean()))
        log["prior"] = [round(float(x), 4) for x in prior]
    return log
