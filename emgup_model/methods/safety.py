"""Safe personalization: how far to go with this user's data is decided before training, without labels.

Training on data in which gestures are missing destroys the model's knowledge of those gestures; confidence, entropy
and agreement do not show it, because training improves them either way. What does show it is coverage: fit a gain per
channel, refine the pseudo-labels, and count the gestures that are given next to nothing. Three answers:

- ``personalized``: every gesture occurs; both stages run.
- ``gains``: gestures are missing; the model between source and personalized, with one gain per channel, is kept.
- ``source``: fewer than two gestures occur; nothing can be learnt, the source model stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.methods.alignment import GainConfig, RotationConfig, fit_gains, rotated, rotation_scores
from emgup_model.methods.base import Target, copy_model
from emgup_model.methods.objective import ObjectiveConfig
from emgup_model.methods.refined_labels import LabelConfig

Decision = Literal["personalized", "gains", "source"]


class SafetyConfig(Frozen):
    """Coverage check, and what is done where it fails."""

    missing_share: float = Field(
        0.14, ge=0, le=1, description="a gesture given less than this share of its even 1/K is missing"
    )
    tolerated_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the gestures that may seem missing before training is refused: confused gestures do, too",
    )
    probe: GainConfig = GainConfig()
    gentle: GainConfig = GainConfig(
        pull=2.0,
        seen_only=True,
        labels=LabelConfig(temperature=2.0, stay=0.95, prior="estimated"),
        objective=ObjectiveConfig(label_weight=1.0, entropy_weight=0.0, diversity_weight=0.0, confidence=0.95),
    )

    def tolerated(self, classes: int) -> int:
        """Missing gestures up to which both stages run."""
        return int(self.tolerated_share * classes)


@dataclass(frozen=True)
class Start:
    """A copy of the source model to go on from, what may be done with it, and a log."""

    model: Backbone
    decision: Decision
    log: dict[str, Any]


def begin(
    source: Backbone,
    target: Target,
    rotation: RotationConfig | None,
    safety: SafetyConfig | None,
    generator: torch.Generator,
) -> Start:
    """Turn back a turned armband if the evidence is strong, then decide from the coverage how far to go."""
    if safety is None:
        shift, score = (0, 0.0) if rotation is None else _best_rotation(source, target)
        turn = rotation is not None and score > rotation.margin
        return Start(rotated(source, shift if turn else 0, target.windows), "personalized", {})
    missing, mass = _missing(source, target, safety, generator)
    log: dict[str, Any] = {"mass": mass, "rotation": 0}
    model = copy_model(source)
    if rotation is not None:
        shift, advantage = _best_rotation(source, target)
        log |= {"best_rotation": shift, "advantage": round(advantage, 4)}
        if shift and advantage > (rotation.uncertain_margin if missing else rotation.margin):
            turned = rotated(source, shift, target.windows)
            still_missing, turned_mass = _missing(turned, target, safety, generator)
            if not still_missing:  # the right turn shows every gesture; a wrong one can look good on some of them
                model, missing = turned, still_missing
                log |= {"mass": turned_mass, "rotation": shift}
    decision = _decide(missing, model.head.out_features, safety)
    if decision == "gains":
        log["gentle"] = fit_gains(model, target, safety.gentle, generator)
    return Start(model, decision, log)


def _decide(missing: int, classes: int, safety: SafetyConfig) -> Decision:
    if missing <= safety.tolerated(classes):
        return "personalized"
    return "gains" if classes - missing >= 2 else "source"


def _missing(
    model: Backbone, target: Target, safety: SafetyConfig, generator: torch.Generator
) -> tuple[int, list[float]]:
    """(number of missing gestures, each gesture's share), after gains are fitted to a copy of the model."""
    mass = fit_gains(copy_model(model), target, safety.probe, generator)["mass"]
    return sum(m < safety.missing_share / len(mass) for m in mass), mass


def _best_rotation(source: Backbone, target: Target) -> tuple[int, float]:
    """(rotation with the highest score, its advantage over no rotation); no rotation off a ring."""
    if not target.ring:
        return 0, 0.0
    scores = rotation_scores(source, target.windows)
    best = int(scores.argmax())
    return best, float(scores[best] - scores[0])
