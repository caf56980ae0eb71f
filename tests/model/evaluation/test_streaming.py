"""Streaming: no prediction used its own or a later window, and the memory is bounded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from emgup_model.backbones import Backbone
from emgup_model.config import parse
from emgup_model.data.windows import WindowedUser
from emgup_model.errors import ConfigError
from emgup_model.evaluation.streaming import Progress, StreamingConfig, excerpt, stream
from emgup_model.methods import Target, adapt, load_method
from emgup_model.methods.checkpoints import Checkpoints
from tests.model.methods.toys import differing, toy_target, train_toy_model, weights

LENGTH, HOP, HOP_S, L = 5, 2, 0.1, 4


class Clock(nn.Module):
    """Knows the first samples of the windows it was made from, and writes down those it predicts.

    The signal of these tests counts its samples, so a window's first value says when it was recorded.
    """

    def __init__(self, known: list[int], predicted: list[tuple[list[int], list[int]]]) -> None:
        super().__init__()
        self.known, self.predicted = known, predicted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.predicted.append((self.known, x[:, 0, 0].int().tolist()))
        return nn.functional.one_hot(torch.full((len(x),), len(self.known) % 7), 7).float()


def user(recordings: list[int], dropped: set[int] = frozenset()) -> WindowedUser:  # type: ignore[assignment]
    """Recordings with so many windows each; the windows ``dropped`` are left out, as by a scenario."""
    starts, recording, position, offset = [], [], [], 0
    for i, n in enumerate(recordings):
        starts += [offset + HOP * w for w in range(n)]
        recording += [i] * n
        position += [*range(n)]
        offset += HOP * (n - 1) + LENGTH
    keep = torch.tensor([i not in dropped for i in range(len(starts))])
    signal = torch.arange(offset, dtype=torch.float32)[None]
    whole = WindowedUser(
        signal, torch.tensor(starts), torch.tensor(recording), torch.tensor(position), ("r",) * len(recordings), LENGTH
    )
    return whole.subset(keep)


def run(windows: WindowedUser, config: StreamingConfig) -> tuple[list[tuple[list[int], list[int]]], list[list[int]]]:
    """What each prediction knew and predicted, and the buffers; as first samples of windows."""
    predicted: list[tuple[list[int], list[int]]] = []
    buffers: list[list[int]] = []

    def adapt(target: Target) -> Backbone:
        buffers.append(target.windows.batch()[:, 0, 0].int().tolist())
        seen = target.windows.signal.int().flatten().tolist()  # everything a method could reach
        assert max(seen) < buffers[-1][-1] + LENGTH
        assert target.sequence_length == L
        assert target.windows.sequences(L)
        return Clock(seen, predicted)  # type: ignore[return-value]

    source: Backbone = Clock([], predicted)  # type: ignore[assignment]
    predictions, last = stream(source, windows, L, HOP_S, config, adapt)
    assert predictions.shape == (len(windows),)
    assert isinstance(last, Clock)
    assert last.known == [] or last.known[-1] == buffers[-1][-1] + LENGTH - 1
    return predicted, buffers


windows = st.builds(
    user, st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sets(st.integers(1, 200), max_size=60)
)
configs = st.tuples(st.floats(0.1, 6), st.floats(0, 10)).map(lambda x: StreamingConfig(block_s=x[0], memory_s=sum(x)))


@settings(max_examples=60, deadline=None)
@given(windows, configs)
def test_every_window_is_predicted_once_in_order_and_by_what_came_before_it(
    windows: WindowedUser, config: StreamingConfig
) -> None:
    predicted, _ = run(windows, config)
    assert [s for _, block in predicted for s in block] == windows.starts.tolist()
    block_windows = max(1, round(config.block_s / HOP_S))
    assert all(len(block) == block_windows for _, block in predicted[:-1])
    for known, block in predicted:
        before = windows.starts[windows.starts < block[0]]
        assert max(known, default=-1) < (int(before[-1]) + LENGTH if len(before) else 0)


@settings(max_examples=60, deadline=None)
@given(windows, configs)
def test_the_buffer_is_bounded_and_holds_the_most_recent_windows(
    windows: WindowedUser, config: StreamingConfig
) -> None:
    predicted, buffers = run(windows, config)
    starts = windows.starts.tolist()
    memory = max(1, round(config.memory_s / HOP_S))
    ends = [block[-1] for _, block in predicted]
    for buffer in buffers:
        assert len(buffer) <= memory
        assert buffer[-1] in ends
        upto = starts.index(buffer[-1]) + 1
        assert buffer == starts[max(0, upto - memory) : upto]


def test_before_the_first_whole_sequence_the_source_model_predicts() -> None:
    config = StreamingConfig(block_s=0.3, memory_s=9)
    predicted, buffers = run(user([3, 3, 9]), config)  # the first two recordings are shorter than a sequence
    assert [len(buffer) for buffer in buffers] == [12, 15]
    assert [bool(known) for known, _ in predicted] == [False, False, False, False, True]


def test_a_buffer_that_has_lost_its_last_whole_sequence_goes_back_to_the_source_model() -> None:
    predicted, buffers = run(user([6, 3, 3, 3]), StreamingConfig(block_s=0.3, memory_s=0.6))
    assert [len(buffer) for buffer in buffers] == [6]
    assert [bool(known) for known, _ in predicted] == [False, False, True, False, False]


def test_a_memory_shorter_than_a_sequence_never_adapts() -> None:
    predicted, buffers = run(user([20]), StreamingConfig(block_s=0.2, memory_s=0.2))
    assert buffers == []
    assert all(known == [] for known, _ in predicted)


class StopError(Exception):
    """The process is gone."""


class Memory:
    """Checkpoints in memory; the ``stop``-th save is the last thing that happens."""

    def __init__(self, stop: int) -> None:
        self.kept: bytes | None = None
        self.left = stop

    def load(self, stage: str) -> bytes | None:
        assert stage == "stream"
        return self.kept

    def save(self, stage: str, data: bytes) -> None:
        self.kept = data
        self.left -= 1
        if not self.left:
            raise StopError


def kept_stream(memory: Memory, key: str = "k") -> tuple[torch.Tensor, Backbone, dict[str, int], list[int]]:
    """Predictions, the last model, the caller's log, and how many windows each buffer of this attempt held."""
    source, log, buffers = train_toy_model(), {"blocks": 0}, []

    def adapt_on(target: Target) -> Backbone:
        log["blocks"] += 1
        buffers.append(len(target.windows))
        return adapt(source, target, load_method("adabn"), 0).model

    sizes, progress = StreamingConfig(block_s=3, memory_s=9), Progress(Checkpoints(memory, key, 0.0), log)
    predictions, last = stream(source, toy_target().windows, 8, 0.1, sizes, adapt_on, progress=progress)
    return predictions, last, log, buffers


def test_stopped_after_any_block_it_ends_as_if_undisturbed() -> None:
    predictions, last, log, buffers = kept_stream(Memory(0))
    assert log["blocks"] == len(buffers) == 6
    for stop in range(1, 7):
        memory = Memory(stop)
        with pytest.raises(StopError):
            kept_stream(memory)
        again = kept_stream(memory)
        assert torch.equal(again[0], predictions)
        assert not differing(weights(again[1]), weights(last))
        assert again[2] == log
        assert again[3] == buffers[stop:]  # no block was done twice


def damage(memory: Memory, how: str) -> None:
    assert memory.kept is not None
    if how == "torn":
        memory.kept = memory.kept[:-1]
        return
    tensors = load(memory.kept)
    if how == "another length":
        tensors["predictions"] = tensors["predictions"][:-1]
    elif how == "no predictions":
        del tensors["predictions"]
    elif how == "another network":
        tensors["head.weight"] = torch.zeros(9, 9)
    else:
        tensors["head.weight"][0] = float("nan")
    memory.kept = save(tensors)


@pytest.mark.parametrize("how", ["torn", "another length", "no predictions", "another network", "nan", "another key"])
def test_a_checkpoint_that_does_not_fit_costs_time_only(how: str) -> None:
    predictions, last, log, buffers = kept_stream(Memory(0))
    memory = Memory(3)
    with pytest.raises(StopError):
        kept_stream(memory)
    if how != "another key":
        damage(memory, how)
    again = kept_stream(memory, "other" if how == "another key" else "k")
    assert torch.equal(again[0], predictions)
    assert not differing(weights(again[1]), weights(last))
    assert again[2:] == (log, buffers)


def test_an_excerpt_has_its_own_signal() -> None:
    whole = user([10, 10], {3})
    part = excerpt(whole, 5, 12)
    assert torch.equal(part.batch(), whole.batch(slice(5, 12)))
    assert part.signal.untyped_storage().nbytes() == part.signal.nbytes < whole.signal.nbytes
    assert (part.recording.tolist(), part.position.tolist()) == ([0] * 4 + [1] * 3, [6, 7, 8, 9, 0, 1, 2])


@pytest.mark.parametrize("data", [{"block_s": 0}, {"memory_s": 10}, {"block_s": float("inf")}, {"window_s": 1}])
def test_sizes_that_make_no_sense_are_one_line(data: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as error:
        parse(StreamingConfig, data, "here")
    assert "\n" not in str(error.value)
