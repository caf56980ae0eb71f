"""Electrode alignment without labels: how far an armband was turned, and how strong each channel is.

Both are properties of how the device sits on this user, shared by all gestures, and have next to no parameters: what
is learnt from some gestures holds for the others too, which is not so for the network's weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.methods.base import Target, copy_model, descend, embed_all, predict_logits, set_mode, shuffled
from emgup_model.methods.information import entropy, marginal_entropy
from emgup_model.methods.objective import ObjectiveConfig, objective
from emgup_model.methods.refined_labels import LabelConfig, refine


class RotationConfig(Frozen):
    """When a turned armband is turned back. Margins are shares of log K, the most that the score can differ."""

    margin: float = Field(0.03, ge=0, le=1, description="advantage a rotation needs where all gestures occur anyway")
    uncertain_margin: float = Field(
        0.07,
        ge=0,
        le=1,
        description="advantage it needs where gestures seem missing; a rotation may leave none missing",
    )


class GainConfig(Frozen):
    """Fit of one gain per channel."""

    epochs: int = Field(8, ge=0, le=1000)
    batch_windows: int = Field(128, ge=2)
    learning_rate: float = Field(2e-2, gt=0, le=1, description="of the log gains")
    pull: float = Field(0.5, ge=0, description="weight of the mean square of the log gains: towards no change")
    labels: LabelConfig = LabelConfig(temperature=2.0, stay=0.95, prior="estimated")
    objective: ObjectiveConfig = ObjectiveConfig(label_weight=1.0, entropy_weight=0.0)
    seen_only: bool = Field(False, description="decide among the gestures that occur only")
    seen_share: float = Field(0.14, ge=0, le=1, description="a gesture occurs if given this share of its even 1/K")


def rotation_matrix(channels: int, electrodes: int) -> torch.Tensor:
    """(C, C) permutation: channel c of the result is channel c + ``electrodes`` of the input."""
    return torch.roll(torch.eye(channels), electrodes, 1)


def information(logits: torch.Tensor) -> float:
    """Mutual information of window and decision in nats: H(mean prediction) − mean H(prediction), logits (N, K)."""
    return float(marginal_entropy(logits) - entropy(logits).mean())


def rotation_scores(model: Backbone, windows: WindowedUser) -> torch.Tensor:
    """(C,) information of the model's decisions after each rotation, divided by log K."""
    channels = windows.signal.shape[0]
    scores = []
    for electrodes in range(channels):
        turned = rotated(model, electrodes, windows)
        scores.append(information(predict_logits(turned, windows)) / math.log(model.head.out_features))
    return torch.tensor(scores)


def rotated(model: Backbone, electrodes: int, windows: WindowedUser) -> Backbone:
    """Copy of the model that takes channel c + ``electrodes`` for channel c: it undoes a turn by −``electrodes``."""
    turned = copy_model(model)
    if electrodes:
        turned.mix_channels(rotation_matrix(windows.signal.shape[0], electrodes).to(windows.signal.device))
    return turned


def fit_gains(model: Backbone, target: Target, config: GainConfig, generator: torch.Generator) -> dict[str, Any]:
    """Fit one gain per channel to the user's windows and put them into the model's first layer, in place.

    The network itself stays. Returns a log: the gains, and each gesture's share of the refined labels afterwards.
    """
    windows = target.windows
    log_gain = torch.zeros(windows.signal.shape[0], 1, device=windows.signal.device, requires_grad=True)
    optimiser = torch.optim.Adam([log_gain], lr=config.learning_rate)
    model.requires_grad_(False)
    set_mode(model, dropout=False, batch_statistics=False)
    even = 1 / model.head.out_features
    for _ in range(config.epochs):
        labels = refine(*embed_all(_with_gains(model, log_gain), windows), windows, config.labels)
        seen = labels.mass >= config.seen_share * even if config.seen_only else None
        for index in shuffled(len(windows), config.batch_windows, generator):
            chosen = index.to(windows.starts.device)
            logits = model(windows.batch(chosen) * log_gain.exp())
            loss = objective(logits, labels.posterior[chosen], labels.prior, seen, config.objective)
            descend(optimiser, loss + config.pull * log_gain.square().mean())
    model.requires_grad_(True)
    model.mix_channels(log_gain.detach().flatten().exp().diag())
    mass = refine(*embed_all(model, windows), windows, config.labels).mass
    return {"gains": _rounded(log_gain.detach().flatten().exp()), "mass": _rounded(mass)}


def _with_gains(model: Backbone, log_gain: torch.Tensor) -> Backbone:
    scaled = copy_model(model)
    scaled.mix_channels(log_gain.detach().flatten().exp().diag())
    return scaled


def _rounded(x: torch.Tensor) -> list[float]:
    return [round(v, 4) for v in x.tolist()]
