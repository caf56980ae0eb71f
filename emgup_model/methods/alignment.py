"""Electrode alignment without labels: how far an armband was turned on this user's arm."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.methods.base import copy_model, predict_logits
from emgup_model.methods.information import entropy, marginal_entropy


class RotationConfig(Frozen):
    """When a turned armband is turned back. Margins are shares of log K, the most that the score can differ."""

    margin: float = Field(0.03, ge=0, le=1, description="advantage a rotation needs where all gestures occur anyway")
    uncertain_margin: float = Field(
        0.07,
        ge=0,
        le=1,
        description="advantage per electrode that it needs where gestures seem missing; it may leave none missing",
    )


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
