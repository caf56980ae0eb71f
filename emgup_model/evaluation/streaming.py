"""The protocol ``streaming``: one pass over a user's windows in recording order, each predicted before it can adapt.

The windows come in blocks. A block is predicted with the current model, then joins a bounded buffer of the most recent
windows, and the method adapts the source model anew on the buffer (docs/decisions/0015-streaming-restarts.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from pydantic import Field, model_validator

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.methods import Target, predict_logits


class StreamingConfig(Frozen):
    """Sizes in seconds of stream: a window counts for the hop to the next one."""

    block_s: float = Field(20.0, gt=0, description="predicted before any of it adapts")
    memory_s: float = Field(140.0, gt=0, description="most recent windows that the method adapts on")

    @model_validator(mode="after")
    def _memory_holds_a_block(self) -> StreamingConfig:
        if self.memory_s < self.block_s:
            raise ValueError("memory_s must be at least block_s, or parts of a block never adapt anything")
        return self


def stream(
    source: Backbone,
    windows: WindowedUser,
    sequence_length: int,
    seconds_per_window: float,
    config: StreamingConfig,
    adapt: Callable[[Target], Backbone],
    ring: bool = False,
) -> tuple[torch.Tensor, Backbone]:
    """Predict every window before anything has adapted on it.

    Args:
        source: model of the release; predicts while the buffer holds no whole sequence.
        windows: N windows in recording order.
        sequence_length: L.
        seconds_per_window: hop between windows.
        config: sizes of block and memory.
        adapt: from unlabelled windows to an adapted copy of the source model; called once per block.
        ring: whether the electrodes are a ring.

    Returns:
        (N,) predicted gestures on the CPU, and the model that the last buffer gives: it is what the user keeps, no
        window was predicted with it.
    """
    block, memory = (max(1, round(s / seconds_per_window)) for s in (config.block_s, config.memory_s))
    model, predictions = source, []
    for first in range(0, len(windows), block):
        stop = min(first + block, len(windows))
        predictions.append(predict_logits(model, excerpt(windows, first, stop)).argmax(1))
        buffer = excerpt(windows, max(0, stop - memory), stop)
        model = adapt(Target(buffer, sequence_length, ring)) if buffer.sequences(sequence_length) else source
    return torch.cat(predictions), model


def excerpt(windows: WindowedUser, first: int, stop: int) -> WindowedUser:
    """Windows ``first`` to ``stop`` − 1 with a copy of their own stretch of signal: nothing later can be reached."""
    starts = windows.starts[first:stop]
    begin, end = int(starts[0]), int(starts[-1]) + windows.window
    return replace(
        windows,
        signal=windows.signal[:, begin:end].clone(),
        starts=starts - begin,
        recording=windows.recording[first:stop],
        position=windows.position[first:stop],
    )
