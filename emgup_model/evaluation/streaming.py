"""The protocol ``streaming``: one pass over a user's windows in recording order, each predicted before it can adapt.

The windows come in blocks. A block is predicted with the current model, then joins a bounded buffer of the most recent
windows, and the method adapts the source model anew on the buffer (docs/decisions/0015-streaming-restarts.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field, model_validator

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.methods import Target, predict_logits
from emgup_model.methods.base import copy_model
from emgup_model.methods.checkpoints import Checkpoints, Saved, find, fits, keep

STAGE = "stream"
PREDICTIONS = "predictions"


class StreamingConfig(Frozen):
    """Sizes in seconds of stream: a window counts for the hop to the next one."""

    block_s: float = Field(20.0, gt=0, description="predicted before any of it adapts")
    memory_s: float = Field(140.0, gt=0, description="most recent windows that the method adapts on")

    @model_validator(mode="after")
    def _memory_holds_a_block(self) -> StreamingConfig:
        if self.memory_s < self.block_s:
            raise ValueError("memory_s must be at least block_s, or parts of a block never adapt anything")
        return self


@dataclass(frozen=True)
class Progress:
    """Where a killed stream is found again.

    Attributes:
        checkpoints: saved after a block, if one is due.
        log: of the caller's own, JSON; saved with the stream and put back in place.
    """

    checkpoints: Checkpoints
    log: dict[str, Any]


def stream(
    source: Backbone,
    windows: WindowedUser,
    sequence_length: int,
    seconds_per_window: float,
    config: StreamingConfig,
    adapt: Callable[[Target], Backbone],
    ring: bool = False,
    progress: Progress | None = None,
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
        progress: None = nothing is saved.

    Returns:
        (N,) predicted gestures on the CPU, and the model that the last buffer gives: it is what the user keeps, no
        window was predicted with it.
    """
    block, memory = (max(1, round(s / seconds_per_window)) for s in (config.block_s, config.memory_s))
    model, predictions, done = source, [], 0
    if progress is not None and (saved := _restore(progress, source, block, len(windows))) is not None:
        model, earlier, done = saved
        predictions.append(earlier)
    for first in range(done * block, len(windows), block):
        stop = min(first + block, len(windows))
        predictions.append(predict_logits(model, excerpt(windows, first, stop)).argmax(1))
        buffer = excerpt(windows, max(0, stop - memory), stop)
        model = adapt(Target(buffer, sequence_length, ring)) if buffer.sequences(sequence_length) else source
        done += 1
        if progress is not None and progress.checkpoints.due():
            tensors = {PREDICTIONS: torch.cat(predictions), **model.state_dict()}
            keep(progress.checkpoints, STAGE, Saved(done, progress.log, tensors))
    return torch.cat(predictions), model


def _restore(
    progress: Progress, source: Backbone, block: int, windows: int
) -> tuple[Backbone, torch.Tensor, int] | None:
    """(model, predictions so far, blocks done) of a saved stream; None where there is none that fits."""
    saved = find(progress.checkpoints, STAGE)
    if saved is None:
        return None
    predictions = saved.tensors.pop(PREDICTIONS, torch.empty(0))
    if not fits(saved.tensors, source.state_dict()) or len(predictions) != min(saved.done * block, windows):
        return None
    model = copy_model(source)
    model.load_state_dict(saved.tensors)
    progress.log.clear()
    progress.log.update(saved.log)
    return model.eval(), predictions, saved.done


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
