"""Live decisions are the evaluation's decisions, whatever the pieces the signal comes in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emgup_client.live.decisions import Decider, Decision
from emgup_client.live.ring import RingBuffer
from emgup_model.data.store import Recording, UserFile, write_user
from emgup_model.data.windows import CausalFilter, PreprocessingConfig, WindowConfig, filter_recording, load_windows
from emgup_model.methods import predict_logits
from emgup_model.release import ReleaseManifest, open_release
from tests.client.homes import KEY, lively_model
from tests.toy import make_release, toy_info

RATE, CHANNELS = 100.0, 4


def manifest(window: int = 20, hop: int = 10, highpass: float | None = 10.0) -> ReleaseManifest:
    files = make_release(
        KEY,
        lively_model(),
        windows=WindowConfig(length=window, hop=hop, sequence_length=8),
        preprocessing=PreprocessingConfig(highpass_hz=highpass),
        scale=7.3,
    )
    return open_release(files, [KEY.public_key().public_bytes_raw()]).manifest


def signal(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    loudness = 1 + 4 * (np.arange(samples)[:, None] // 50 % CHANNELS == np.arange(CHANNELS))
    return (30 + 10 * rng.standard_normal((samples, CHANNELS)) * loudness).astype(np.float32)


def cut(samples: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(samples, np.minimum(np.cumsum(sizes), len(samples)))


SIZES = st.lists(st.integers(0, 70), max_size=40)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, window=st.integers(4, 30), hop=st.integers(1, 45), highpass=st.sampled_from([None, 10.0]))
def test_live_decisions_do_not_depend_on_the_pieces_and_are_the_offline_ones(
    sizes: list[int], window: int, hop: int, highpass: float | None
) -> None:
    model, facts, emg = lively_model(), manifest(window, hop, highpass), signal(300)
    decider = Decider(model, facts)
    live = [d for piece in cut(emg, sizes) for d in decider.push(piece)]
    whole = list(Decider(model, facts).push(emg))
    assert live == whole
    logits = offline(emg, facts)
    assert [d.number for d in live] == list(range(len(logits)))
    assert [d.end_s for d in live] == [(window + i * hop) / RATE for i in range(len(logits))]
    np.testing.assert_allclose([d.probabilities for d in live], logits.softmax(1), atol=1e-5)
    assert [d.gesture for d in live] == logits.argmax(1).tolist()


def offline(emg: np.ndarray, facts: ReleaseManifest) -> torch.Tensor:
    """Logits of the evaluation's own way: file, load_windows, predict_logits."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "u.h5"
        write_user(path, toy_info("u"), [Recording("r", 0, 0, 0.0, emg, None)])
        with UserFile(path) as file:
            windows = load_windows(file, facts.windows, facts.preprocessing, facts.scale)
    return predict_logits(lively_model(), windows)


def test_the_decisions_in_these_tests_vary() -> None:
    made = {d.gesture for d in Decider(lively_model(), manifest()).push(signal(300))}
    assert len(made) > 1


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, order=st.integers(1, 8))
def test_the_filter_gives_the_same_bits_whatever_the_pieces(sizes: list[int], order: int) -> None:
    config, emg = PreprocessingConfig(highpass_hz=10.0, highpass_order=order), signal(300)
    by_piece = CausalFilter(RATE, config)
    pieces = [by_piece(p) for p in cut(emg, sizes)]
    assert np.array_equal(np.concatenate(pieces), filter_recording(emg, RATE, config))


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, length=st.integers(1, 30))
def test_the_ring_holds_the_last_samples(sizes: list[int], length: int) -> None:
    ring, emg = RingBuffer(length, CHANNELS), signal(300)
    seen = np.zeros((length, CHANNELS), np.float32)
    for piece in cut(emg, sizes):
        ring.write(piece)
        seen = np.concatenate([seen, piece])[-length:]
        assert np.array_equal(ring.read(), seen)


def test_a_restart_forgets_the_signal() -> None:
    decider, emg = Decider(lively_model(), manifest()), signal(95)
    first = list(decider.push(emg))
    decider.restart()
    assert list(decider.push(emg)) == first


def rejected(decisions: list[Decision]) -> list[bool]:
    return [d.gesture is None for d in decisions]


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9, 1.0])
def test_what_is_less_confident_than_the_threshold_is_rejected(threshold: float) -> None:
    decisions = list(Decider(lively_model(), manifest(), threshold).push(signal(300)))
    assert rejected(decisions) == [d.confidence < threshold for d in decisions]
    free = list(Decider(lively_model(), manifest()).push(signal(300)))
    assert [replace(d, gesture=None) for d in decisions] == [replace(d, gesture=None) for d in free]
