"""Soft pseudo-labels from what a user's data has in common: gestures are held, and gestures form clusters.

The source classifier's probabilities are smoothed over held gestures (``held``); the classes' mean embeddings then
vote beside the classifier, because a new user's clusters are often tighter than the classifier's borders are right (as
in SHOT, Liang et al., ICML 2020); the votes are smoothed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.methods.held import held_posterior

FEWEST = 3.0
"""A class that fewer windows than this are given to has no usable mean."""
UNIFORM_SHARE = 0.1
"""Share of the uniform prior in an estimated one, so that no class is ruled out."""


class LabelConfig(Frozen):
    """How pseudo-labels are refined."""

    temperature: float = Field(1.0, gt=0, description="divides the logits; above 1 trusts the source classifier less")
    stay: float = Field(0.8, ge=0, lt=1, description="persistence of a held gesture from window to window")
    prototype_weight: float = Field(
        0.5, ge=0, le=1, description="of the classes' mean embeddings against the classifier"
    )
    prototype_temperature: float = Field(0.1, gt=0, description="divides the cosine with a mean embedding")
    rounds: int = Field(2, ge=0, le=20, description="times that the means are taken again")
    prior: Literal["uniform", "estimated"] = Field(
        "uniform", description="class prior of the user's data: uniform, or estimated with the labels (EM)"
    )


@dataclass(frozen=True)
class RefinedLabels:
    """Pseudo-labels of N windows.

    Attributes:
        posterior: (N, K) probability of each gesture.
        prior: (K,) prior that goes with it.
        mass: (K,) share of the windows that each gesture was given.
    """

    posterior: torch.Tensor
    prior: torch.Tensor
    mass: torch.Tensor


def refine(z: torch.Tensor, logits: torch.Tensor, windows: WindowedUser, config: LabelConfig) -> RefinedLabels:
    """Refined labels of N windows in recording order from their embeddings (N, d) and logits (N, K)."""
    uniform = torch.full_like(logits[0], 1 / logits.shape[1])
    classifier = F.log_softmax(logits / config.temperature, 1)
    directions = F.normalize(torch.cat([z, torch.ones_like(z[:, :1])], 1), dim=1)
    prior = uniform
    posterior = held_posterior(classifier, windows, config.stay, prior)
    for _ in range(config.rounds):
        if config.prior == "estimated":
            prior = _softened(posterior.mean(0), uniform)
        votes = _prototype_votes(directions, posterior, config.prototype_temperature)
        evidence = (1 - config.prototype_weight) * classifier + config.prototype_weight * votes
        posterior = held_posterior(evidence, windows, config.stay, prior)
    mass = posterior.mean(0)
    return RefinedLabels(posterior, _softened(mass, uniform) if config.prior == "estimated" else uniform, mass)


def _prototype_votes(directions: torch.Tensor, posterior: torch.Tensor, temperature: float) -> torch.Tensor:
    """(N, K) log-probabilities by cosine with the classes' mean directions; classes without a mean get next to none."""
    means = F.normalize(posterior.T @ directions, dim=1)
    similarity = directions @ means.T / temperature
    similarity[:, posterior.sum(0) < FEWEST] = -30.0
    return F.log_softmax(similarity, 1).clamp_min(-30.0)


def _softened(mass: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    return (1 - UNIFORM_SHARE) * mass + UNIFORM_SHARE * uniform
