"""Rehearsal of the source gestures while a model learns a user: windows drawn from the release's signal statistics.

Training on data in which gestures are missing destroys the model's knowledge of them (docs/method.md). Labelled windows
of every gesture beside the user's own keep it, and there is no need for a source recording: Gaussian windows with the
source users' mean moments do nearly as well (generative replay; Shin et al., NeurIPS 2017).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch.nn import functional as F

from emgup_model.augmentation import Augmentation
from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.methods.alignment import rotation_matrix
from emgup_model.methods.base import Target
from emgup_model.methods.objective import ObjectiveConfig


class ReplayConfig(Frozen):
    """How much is rehearsed, for how long."""

    epochs: int = Field(12, ge=1, le=1000, description="epochs of the second stage with replay, before those without")
    weight: float = Field(1.0, gt=0, description="of the replayed windows' cross-entropy")
    objective: ObjectiveConfig = Field(
        ObjectiveConfig(label_weight=0.0),
        description="on the user's windows meanwhile: pseudo-labels are trusted once clusters have their names",
    )
    batch_windows: int = Field(128, ge=1, description="replayed windows beside each batch of the user's")
    per_gesture: int = Field(1000, ge=1, le=100_000, description="windows drawn of each gesture")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    augmentation: Augmentation = Augmentation(rotated_share=0.8, rotation_electrodes=1.0, gain_log_sd=0.25)


class Replay:
    """A pool of drawn windows, as this user's armband would record them: turned as far as the user's is."""

    def __init__(self, config: ReplayConfig, target: Target, rotation: int, generator: torch.Generator) -> None:
        """Raises ValueError when the release holds no statistics to draw from."""
        if target.source_statistics is None:
            raise ValueError(
                "replay needs a release with signal statistics; train the source model again, or replay: null"
            )
        self._config, self._generator = config, generator
        x, y = target.source_statistics.draw(config.per_gesture, target.windows.window, generator)
        back = rotation_matrix(x.shape[1], -rotation)
        device = target.windows.signal.device
        self._windows, self._gestures = (back @ x).to(device), y.to(device)
        off_ring = {} if target.ring else {"rotated_share": 0.0}
        self._augmentation = config.augmentation.model_copy(update=off_ring)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented windows (B, C, W) and their gestures (B,)."""
        index = torch.randint(len(self._gestures), (self._config.batch_windows,), generator=self._generator)
        index = index.to(self._gestures.device)
        return self._augmentation.apply(self._windows[index], self._generator), self._gestures[index]

    def loss(self, logits: torch.Tensor, gestures: torch.Tensor) -> torch.Tensor:
        """Weighted cross-entropy of replayed windows' logits (B, K)."""
        return self._config.weight * F.cross_entropy(logits, gestures, label_smoothing=self._config.label_smoothing)


def interpolate(start: Backbone, model: Backbone, share: float) -> None:
    """Set ``model`` to (1 − share) · ``start`` + share · ``model`` (Wortsman et al., CVPR 2022), number by number.

    BatchNorm's running statistics are numbers of the model like its parameters; its counters stay.
    """
    others = start.state_dict()
    for name, mine in model.state_dict().items():
        if mine.is_floating_point():
            mine.lerp_(others[name], 1 - share)
