from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emgup_model.data.store import Recording, Store, UserFile, write_user
from emgup_model.data.windows import (
    UNLABELLED,
    PreprocessingConfig,
    WindowConfig,
    WindowedUser,
    filter_recording,
    load_windows,
    majority,
    window_labels,
)
from emgup_model.errors import DataError
from tests.toy import toy_info

NO_FILTER = PreprocessingConfig(highpass_hz=None)


def make(tmp_path: Path, *lengths: int) -> UserFile:
    recordings, first = [], 0
    for i, n in enumerate(lengths):
        emg = np.arange(first, first + n, dtype=np.float32)[:, None].repeat(4, 1)
        recordings.append(Recording(f"r{i}", 0, i, float(i), emg, i % 3))
        first += n
    write_user(tmp_path / "u.h5", toy_info("u"), recordings)
    return UserFile(tmp_path / "u.h5")


def test_windows_never_cross_recordings_and_hold_the_right_samples(tmp_path: Path) -> None:
    with make(tmp_path, 10, 3, 9) as file:
        user = load_windows(file, WindowConfig(length=4, hop=3, sequence_length=2), NO_FILTER, 1.0)
    assert user.batch()[:, 0, 0].tolist() == [0, 3, 6, 13, 16]
    assert user.recording.tolist() == [0, 0, 0, 2, 2]
    assert user.position.tolist() == [0, 1, 2, 0, 1]
    assert user.batch()[4, 2].tolist() == [16, 17, 18, 19]


def test_windows_are_views_of_one_signal(tmp_path: Path) -> None:
    with make(tmp_path, 50) as file:
        user = load_windows(file, WindowConfig(length=10, hop=1, sequence_length=2), NO_FILTER, 1.0)
    assert user.view().untyped_storage().data_ptr() == user.signal.untyped_storage().data_ptr()


def test_the_signal_is_divided_by_the_scale(tmp_path: Path) -> None:
    with make(tmp_path, 20) as file:
        grid = WindowConfig(length=4, hop=4, sequence_length=2)
        one, four = (load_windows(file, grid, NO_FILTER, s).signal for s in (1.0, 4.0))
    assert torch.equal(one, 4 * four)


def test_sequences_stay_inside_recordings_and_cover_every_window_with_keep_short(tmp_path: Path) -> None:
    with make(tmp_path, 12, 9) as file:
        user = load_windows(file, WindowConfig(length=4, hop=1, sequence_length=4), NO_FILTER, 1.0)
    full, all_runs = user.sequences(4), user.sequences(4, keep_short=True)
    assert [s.tolist() for s in full] == [[0, 1, 2, 3], [4, 5, 6, 7], [9, 10, 11, 12]]
    assert torch.cat(all_runs).tolist() == list(range(len(user)))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(2, 9), st.data())
def test_sequences_of_any_subset_are_consecutive(lengths: list[int], L: int, data: st.DataObject) -> None:
    recording = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    position = torch.cat([torch.arange(n) for n in lengths])
    keep = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=len(recording), max_size=len(recording))), dtype=torch.bool
    )
    user = WindowedUser(torch.zeros(1, 99), position, recording, position, ("r",) * len(lengths), 1).subset(keep)
    runs = user.sequences(L, keep_short=True)
    assert sorted(i for r in runs for i in r.tolist()) == list(range(len(user)))
    for run in runs:
        assert 1 <= len(run) <= L
        assert len(set(user.recording[run].tolist())) == 1
        assert user.position[run].diff().tolist() == [1] * (len(run) - 1)


def test_the_high_pass_is_causal_and_removes_the_offset() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 2)) + 50
    config = PreprocessingConfig(highpass_hz=10.0)
    y = filter_recording(x, 200.0, config)
    assert abs(y[100:].mean()) < 0.1
    changed = x.copy()
    changed[300:] += 9
    assert np.array_equal(filter_recording(changed, 200.0, config)[:300], y[:300])


def test_the_high_pass_starts_in_the_steady_state_of_the_first_sample() -> None:
    level = np.tile([50.0, -3.0], (40, 1))
    assert np.abs(filter_recording(level, 200.0, PreprocessingConfig(highpass_hz=10.0))).max() < 1e-4


def test_a_cut_off_above_half_the_rate_is_refused() -> None:
    with pytest.raises(DataError, match="half the sampling rate"):
        filter_recording(np.zeros((10, 1)), 100.0, PreprocessingConfig(highpass_hz=50.0))


def test_a_user_without_one_window_is_refused(tmp_path: Path) -> None:
    with make(tmp_path, 9) as file, pytest.raises(DataError, match="at least 10 samples"):
        load_windows(file, WindowConfig(length=10, hop=1, sequence_length=2), NO_FILTER, 1.0)


def test_per_sample_labels_give_each_window_its_majority(tmp_path: Path) -> None:
    with make(tmp_path, 3, 12) as file:
        user = load_windows(file, WindowConfig(length=4, hop=4, sequence_length=2), NO_FILTER, 1.0)
    labels: dict[str, int | np.ndarray] = {"r0": 0, "r1": np.array([0, 0, 0, 1, 1, 1, 2, 1, 2, 2, 2, 2])}
    assert window_labels(labels, user, [3, 12]).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="5 labels for 12 samples"):
        window_labels({"r0": 0, "r1": np.zeros(5, int)}, user, [3, 12])
    assert window_labels({"r0": 0}, user, [3, 12]).tolist() == [UNLABELLED] * 3


def test_a_window_whose_samples_tie_has_no_gesture(tmp_path: Path) -> None:
    with make(tmp_path, 12) as file:
        user = load_windows(file, WindowConfig(length=4, hop=4, sequence_length=2), NO_FILTER, 1.0)
    assert window_labels({"r0": np.array([0, 0, 2, 2, 1, 2, 2, 0, 3, 1, 0, 3])}, user, [12]).tolist() == [-1, 2, 3]


@given(st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), max_size=20))
def test_the_gesture_of_a_window_is_the_one_that_most_samples_show(samples: list[list[int]]) -> None:
    got = majority(np.array(samples, int).reshape(-1, 7))
    for window, gesture in zip(samples, got, strict=True):
        (top, most), *others = Counter(window).most_common()
        assert gesture == (UNLABELLED if others and others[0][1] == most else top)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 7), st.data())
def test_a_stretch_of_ones_own_holds_the_same_windows_and_nothing_between_runs(
    lengths: list[int], window: int, hop: int, data: st.DataObject
) -> None:
    samples = [(n - 1) * hop + window for n in lengths]
    offsets = np.concatenate([[0], np.cumsum(samples)])
    user = WindowedUser(
        torch.arange(float(offsets[-1])).expand(2, -1),
        torch.cat([int(o) + hop * torch.arange(n) for o, n in zip(offsets, lengths, strict=False)]),
        torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)]),
        torch.cat([torch.arange(n) for n in lengths]),
        tuple(f"fist_{i}" for i in range(len(lengths))),
        window,
    )
    keep = data.draw(st.lists(st.booleans(), min_size=len(user), max_size=len(user)))
    some = user.subset(torch.tensor(keep))
    own = some.own_stretch()
    assert len(own) == len(some)
    assert set(own.names) == {""}
    if not len(own):
        assert own.signal.numel() == 0
        return
    assert torch.equal(own.batch(), some.batch())
    assert torch.equal(own.position, some.position)
    assert [s.tolist() for s in own.sequences(3, True)] == [s.tolist() for s in some.sequences(3, True)]
    runs = torch.tensor_split(some.starts, own.run_starts()[1:])
    reachable = {s for run in runs for s in range(int(run[0]), int(run[-1]) + window)}
    assert set(own.signal[0].int().tolist()) == reachable
    own.signal.fill_(-1)
    assert (user.signal >= 0).all()


def test_windowed_user_has_no_field_for_labels(toy_store: Store) -> None:
    fields = set(WindowedUser.__dataclass_fields__)
    assert fields == {"signal", "starts", "recording", "position", "names", "window"}
