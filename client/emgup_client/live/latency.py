"""How long decisions take: from the arrival of a window's last sample to the decision."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Percentiles over decisions, in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Collection[float]) -> Latency | None:
        """Percentiles of latencies in seconds; None when there are none."""
        if not seconds:
            return None
        p50, p95, p99 = np.percentile(list(seconds), [50, 95, 99]) * 1000
        return cls(float(p50), float(p95), float(p99), max(seconds) * 1000)

    def rounded(self) -> dict[str, float]:
        """Microseconds are precise enough to be read."""
        return {k: round(v, 3) for k, v in asdict(self).items()}
