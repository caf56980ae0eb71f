"""The loop of live use: chunk in, decisions out, each with its latency; percentiles at the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from emgup_client.live.decisions import Decider, Decision
from emgup_client.live.latency import Latency
from emgup_client.live.sources import Chunk, Source

KEPT = 100_000
"""Latencies that the percentiles are taken over: the most recent ones."""


@dataclass(frozen=True)
class Summary:
    """What a stream came to: decisions made, those rejected, and how long they took."""

    decisions: int
    rejected: int
    latency: Latency | None


def predict(
    source: Source,
    decider: Decider,
    on_decision: Callable[[Decision, float], None],
    on_chunk: Callable[[Chunk], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Decide until the source ends, ``stop`` says so, or Ctrl-C.

    Args:
        source: chunks of samples.
        decider: the model; it starts afresh with every recording.
        on_decision: called with each decision and its latency in seconds.
        on_chunk: called with each chunk, after its decisions.
        stop: asked after every chunk.
    """
    torch.set_num_threads(1)  # one window is too little work to share
    decisions = rejected = 0
    latencies: deque[float] = deque(maxlen=KEPT)
    try:
        for chunk in source:
            arrived = time.perf_counter()
            if chunk.begins:
                decider.restart()
            for decision in decider.push(chunk.samples):
                latencies.append(time.perf_counter() - arrived)
                decisions += 1
                rejected += decision.gesture is None
                on_decision(decision, latencies[-1])
            on_chunk(chunk)
            if stop():
                break
    except KeyboardInterrupt:
        pass
    return Summary(decisions, rejected, Latency.of(latencies))
