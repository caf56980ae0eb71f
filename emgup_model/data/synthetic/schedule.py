"""What is recorded when: held gestures or continuous streams, balanced or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from emgup_model.data.synthetic.activation import Segment
from emgup_model.data.synthetic.arrays import Integers
from emgup_model.data.synthetic.config import SyntheticConfig
from emgup_model.data.synthetic.gestures import GESTURES

# A held recording begins while the hand is still going to its gesture, or after: seconds since the first move (chosen).
LATE_S = (0.25, 1.0)
# How evenly rest is spread over a stream: concentration of the Dirichlet distribution of the gaps (chosen).
EVENNESS = 8.0
STREAM = 1_000_000


@dataclass(frozen=True)
class Planned:
    """One recording to be made.

    Attributes:
        name: unique for the user; it does not tell the gesture, since adaptation sees it.
        repetition: counted within the session.
        key: of its random numbers, together with the repetition: the gesture, or STREAM.
        start_s: seconds since the session began.
        samples: of the device.
        segments: what is done.
        lead_in_s: how long the first segments have been going on when the recording begins.
        label: one gesture, or one per sample.
    """

    name: str
    repetition: int
    key: int
    start_s: float
    samples: int
    segments: tuple[Segment, ...]
    lead_in_s: float
    label: int | Integers


def repetitions_of(config: SyntheticConfig, frequency_rank: Integers) -> Integers:
    """(gestures,) how often a session holds each gesture: from ``repetitions`` down to ``repetitions / imbalance``."""
    rank = np.argsort(np.argsort(frequency_rank[: config.gestures]))
    share = config.imbalance ** (-rank / (config.gestures - 1))
    return np.maximum(1, np.rint(config.repetitions * share)).astype(np.int64)


def plan_session(
    config: SyntheticConfig, frequency_rank: Integers, session: int, rng_of: Callable[[int], np.random.Generator]
) -> list[Planned]:
    """The recordings of one session, in order; the gestures of a repetition come in random order.

    ``rng_of`` gives the generator of a repetition, so that none depends on how many there are.
    """
    counts = repetitions_of(config, frequency_rank)
    plans: list[Planned] = []
    start = 0.0
    for repetition in range(config.repetitions):
        rng = rng_of(repetition)
        late = rng.uniform(*LATE_S, len(GESTURES))
        due = np.flatnonzero(counts > repetition)
        if config.rest_share is None:
            new = [_held(config, repetition, int(g), float(late[g])) for g in rng.permutation(due)]
        elif due.any():
            new = [_stream(config, config.rest_share, repetition, due[due > 0], rng)]
        else:
            new = []
        for plan in new:
            plans.append(replace(plan, name=f"s{session:02d}_{len(plans):04d}", start_s=round(start, 6)))
            start += plan.samples / config.sampling_rate_hz + config.pause_s
    return plans


def _held(config: SyntheticConfig, repetition: int, gesture: int, late: float) -> Planned:
    samples = max(1, round(config.seconds * config.sampling_rate_hz))
    segments = (Segment(gesture, late + samples / config.sampling_rate_hz),)
    return Planned("", repetition, gesture, 0.0, samples, segments, late, gesture)


def _stream(
    config: SyntheticConfig,
    rest_share: float,
    repetition: int,
    gestures: Integers,
    rng: np.random.Generator,
) -> Planned:
    """Rest, gesture, rest, ..., gesture, rest; labels change when the user is told to, before the muscles follow."""
    each = max(1, round(config.seconds * config.sampling_rate_hz))
    n = len(gestures)
    rest = round(n * each * rest_share / (1 - rest_share))
    edges = np.cumsum(rng.dirichlet(np.full(n + 1, EVENNESS)))[:-1]
    gaps = np.diff(np.rint(np.r_[0, edges, 1] * rest)).astype(np.int64)
    order = rng.permutation(gestures)
    done, lengths = np.zeros(2 * n + 1, np.int64), np.empty(2 * n + 1, np.int64)
    done[1::2], lengths[1::2], lengths[0::2] = order, each, gaps
    segments = tuple(
        Segment(int(g), int(k) / config.sampling_rate_hz) for g, k in zip(done, lengths, strict=True) if k > 0
    )
    return Planned("", repetition, STREAM, 0.0, int(lengths.sum()), segments, 0.0, np.repeat(done, lengths))
