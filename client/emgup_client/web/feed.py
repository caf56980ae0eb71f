"""What the page shows of a running stream: the last seconds of signal and decisions, handed from thread to thread."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np

from emgup_client.live.decisions import Decision
from emgup_client.live.latency import Latency
from emgup_client.live.predict import KEPT
from emgup_client.live.sources import Chunk
from emgup_model.data.windows import CausalFilter
from emgup_model.release import ReleaseManifest

SHOWN_S = 10.0
POINTS_PER_S = 50
DECISIONS = 200


class Feed:
    """Written by the thread that decides, read by the web server.

    Attributes:
        status: ``running``, ``ended``, or what went wrong.
    """

    def __init__(self, manifest: ReleaseManifest) -> None:
        self._manifest = manifest
        self._lock = threading.Lock()
        self._per_point = max(1, round(manifest.sampling_rate_hz / POINTS_PER_S))
        self._rest: np.ndarray = np.empty((0, manifest.channels), np.float32)
        self._points: deque[list[list[float]]] = deque(maxlen=round(SHOWN_S * POINTS_PER_S))
        self._decisions: deque[dict[str, Any]] = deque(maxlen=DECISIONS)
        self._latencies: deque[float] = deque(maxlen=KEPT)
        self._waiting: list[dict[str, Any]] = []
        self._begin_s = self._end_s = 0.0
        self._n_points = self._n_decisions = self._rejected = 0
        self._filter = CausalFilter(manifest.sampling_rate_hz, manifest.preprocessing)
        self.status = "running"

    def chunk(self, chunk: Chunk) -> None:
        """Add signal, filtered and scaled as the model gets it: the least and largest value of every 20 ms."""
        if chunk.begins:
            self._filter = CausalFilter(self._manifest.sampling_rate_hz, self._manifest.preprocessing)
            self._begin_s = self._end_s
        self._end_s += len(chunk.samples) / self._manifest.sampling_rate_hz
        x = self._filter(chunk.samples) / np.float32(self._manifest.scale)
        x = np.concatenate([self._rest, x])
        n = len(x) // self._per_point
        bins = x[: n * self._per_point].reshape(n, self._per_point, x.shape[1])
        self._rest = x[n * self._per_point :]
        low, high = bins.min(1).round(3).tolist(), bins.max(1).round(3).tolist()
        with self._lock:
            self._points.extend([a, b] for a, b in zip(low, high, strict=True))
            self._n_points += n
            self._decisions.extend({**d, "at_s": round(self._begin_s + d["end_s"], 4)} for d in self._waiting)
            self._n_decisions += len(self._waiting)
        self._waiting.clear()

    def decision(self, decision: Decision, latency_s: float) -> None:
        """Add a decision; it is shown with its chunk, which follows and says where its recording begins."""
        self._waiting.append(
            {
                "end_s": decision.end_s,
                "gesture": decision.gesture,
                "confidence": decision.confidence,
                "probabilities": [round(p, 4) for p in decision.probabilities],
            }
        )
        with self._lock:
            self._latencies.append(latency_s)
            self._rejected += decision.gesture is None

    def since(self, point: int, decision: int) -> dict[str, Any]:
        """What came after the first ``point`` points and ``decision`` decisions, as far as it is still held."""
        with self._lock:
            points = list(self._points)[max(0, point - (self._n_points - len(self._points))) :]
            decisions = list(self._decisions)[max(0, decision - (self._n_decisions - len(self._decisions))) :]
            latency = Latency.of(self._latencies)
            return {
                "status": self.status,
                "points": points,
                "n_points": self._n_points,
                "decisions": decisions,
                "n_decisions": self._n_decisions,
                "rejected": self._rejected,
                "latency": latency and latency.rounded(),
            }
