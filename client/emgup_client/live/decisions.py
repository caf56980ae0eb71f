"""From samples to decisions: the evaluation's own filter, scaling and windows, one window at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from emgup_client.live.ring import RingBuffer
from emgup_model.backbones import Backbone
from emgup_model.data.windows import CausalFilter
from emgup_model.release import ReleaseManifest


@dataclass(frozen=True)
class Decision:
    """What the model says of one window.

    Attributes:
        number: 0, 1, … within the recording or stream.
        end_s: time of the window's last sample, in seconds of signal since the first sample.
        gesture: index of the most probable gesture; None when its probability is below the threshold.
        probabilities: (K,) of all gestures.
        confidence: the largest of them.
    """

    number: int
    end_s: float
    gesture: int | None
    probabilities: tuple[float, ...]
    confidence: float


class Decider:
    """Decides once per hop, as soon as the last sample of a window is there.

    An armband that the adaptation turned back needs no treatment here: the turn is in the model's first layer.
    """

    def __init__(self, model: Backbone, manifest: ReleaseManifest, threshold: float = 0.0) -> None:
        """``threshold``: probability below which a decision is rejected."""
        self._model = model.eval()
        self._manifest = manifest
        self._threshold = threshold
        self.restart()

    def restart(self) -> None:
        """Forget the signal: what comes next is a new recording."""
        manifest = self._manifest
        self._filter = CausalFilter(manifest.sampling_rate_hz, manifest.preprocessing)
        self._ring = RingBuffer(manifest.windows.length, manifest.channels)
        self._seen = 0
        self._due = manifest.windows.length
        self._number = 0

    def push(self, samples: np.ndarray) -> Iterator[Decision]:
        """Decisions that samples (n, C), in the release's unit, make possible.

        Draw them all before the next push.
        """
        x = self._filter(samples) / np.float32(self._manifest.scale)
        while len(x):
            piece, x = x[: self._due - self._seen], x[self._due - self._seen :]
            self._ring.write(piece)
            self._seen += len(piece)
            if self._seen == self._due:
                yield self._decide()
                self._due += self._manifest.windows.hop
                self._number += 1

    @torch.inference_mode()
    def _decide(self) -> Decision:
        window = torch.from_numpy(np.ascontiguousarray(self._ring.read().T)).unsqueeze(0)
        p = self._model(window).float().softmax(1)[0].tolist()
        confidence = max(p)
        gesture = p.index(confidence) if confidence >= self._threshold else None
        return Decision(self._number, self._seen / self._manifest.sampling_rate_hz, gesture, tuple(p), confidence)
