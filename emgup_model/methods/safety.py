"""Safe personalization: how far to go with this user's data is decided before training, without labels.

Training on data in which gestures are missing destroys the model's knowledge of those gestures; confidence, entropy
and agreement do not show it, because training improves them either way. What does show it is the *source* model's best
moment: a gesture that occurs, however badly recognised, convinces it in at least some windows; one that does not occur
never does. Three answers:

- ``personalized``: every gesture occurs; both stages run to the end.
- ``guarded``: gestures seem missing; the epochs with replay run, and unless they bring every gesture back, the result
  is averaged with the start.
- ``source``: fewer than two gestures occur; nothing can be learnt, the source model stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.methods.alignment import RotationConfig, rotated, rotation_scores
from emgup_model.methods.base import Target, predict_logits
from emgup_model.methods.information import marginal_entropy

Decision = Literal["personalized", "guarded", "source"]


class SafetyConfig(Frozen):
    """When a gesture counts as seen, and what is kept where one is missing."""

    seen_probability: float = Field(
        0.6, ge=0, le=1, description="a gesture occurs if its best windows reach this mean probability"
    )
    best_windows: int = Field(10, ge=1, description="windows that are asked for each gesture")
    even_entropy: float = Field(
        0.95, ge=0, le=1, description="of log K: from this entropy of the mean prediction on, shares count as even"
    )
    guarded_epochs: int = Field(
        12,
        ge=0,
        le=1000,
        description="epochs with replay, and with the second stage's objective, where shares are not even",
    )
    recovered_share: float = Field(
        0.4, ge=0, le=1, description="of its even 1/K: a gesture given more by the rehearsed model occurs after all"
    )
    kept_share: float = Field(
        0.4, ge=0, le=1, description="of the training's change that is kept where gestures are missing"
    )


@dataclass(frozen=True)
class Start:
    """A copy of the source model to go on from, the rotation in it, what may be done with it, and a log.

    ``even``: every gesture is seen, and about as often as the others.
    """

    model: Backbone
    rotation: int
    decision: Decision
    even: bool
    log: dict[str, Any]


def begin(source: Backbone, target: Target, rotation: RotationConfig | None, safety: SafetyConfig | None) -> Start:
    """Turn back a turned armband if the evidence is strong, then decide from the coverage how far to go."""
    shift, advantage = (0, 0.0) if rotation is None else _best_rotation(source, target)
    if safety is None:
        turn = shift if rotation is not None and advantage > rotation.margin else 0
        return Start(rotated(source, turn, target.windows), turn, "personalized", True, {"rotation": turn})
    best = best_probabilities(source, target, safety.best_windows)
    missing = _missing(best, safety)
    model, turn = rotated(source, 0, target.windows), 0
    if rotation is not None and shift and advantage > _margin(rotation, shift, target.windows.signal.shape[0], missing):
        turned = rotated(source, shift, target.windows)
        turned_best = best_probabilities(turned, target, safety.best_windows)
        if not _missing(turned_best, safety):  # the right turn shows every gesture; a wrong one can look good on some
            model, turn, best, missing = turned, shift, turned_best, 0
    log: dict[str, Any] = {"best": [round(p, 4) for p in best.tolist()], "rotation": turn, "best_rotation": shift}
    log |= {"advantage": round(advantage, 4), "evenness": round(evenness(model, target), 4)}
    even = not missing and log["evenness"] >= safety.even_entropy
    return Start(model, turn, _decide(missing, len(best)), even, log)


def best_probabilities(model: Backbone, target: Target, windows: int) -> torch.Tensor:
    """(K,) mean probability of each gesture over the ``windows`` windows that it is most probable in."""
    p = predict_logits(model, target.windows).softmax(1)
    return p.topk(min(windows, len(p)), dim=0).values.mean(0)


def _missing(best: torch.Tensor, safety: SafetyConfig) -> int:
    return int((best < safety.seen_probability).sum())


def evenness(model: Backbone, target: Target) -> float:
    """Entropy of the mean prediction over the user's windows, divided by log K."""
    return float(marginal_entropy(predict_logits(model, target.windows))) / math.log(model.head.out_features)


def recovered(model: Backbone, target: Target, safety: SafetyConfig) -> bool:
    """Whether a model that rehearsed all gestures finds every one of them in the user's data after all."""
    share = predict_logits(model, target.windows).softmax(1).mean(0)
    return bool((share * len(share) >= safety.recovered_share).all())


def _margin(rotation: RotationConfig, shift: int, channels: int, missing: int) -> float:
    """A far turn is rare and the worst mistake: where gestures seem missing it needs more evidence than a near one."""
    return rotation.uncertain_margin * min(shift, channels - shift) if missing else rotation.margin


def _decide(missing: int, classes: int) -> Decision:
    if not missing:
        return "personalized"
    return "guarded" if classes - missing >= 2 else "source"


def _best_rotation(source: Backbone, target: Target) -> tuple[int, float]:
    """(rotation with the highest score, its advantage over no rotation); no rotation off a ring."""
    if not target.ring:
        return 0, 0.0
    scores = rotation_scores(source, target.windows)
    best = int(scores.argmax())
    return best, float(scores[best] - scores[0])
