from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.signal import butter, lfilter

from emgup_model.data.leakage import CONFIRMED, MIN_SAMPLES, find_copies, fingerprint, same_waveform

RATE = 200.0


def emg(seed: int, samples: int = 1000, channels: int = 8, hum: float = 0.0) -> np.ndarray:
    """Like a held gesture: noise with a muscle's spectrum, a common envelope, levels per channel, perhaps mains hum."""
    rng = np.random.default_rng(seed)
    b, a = butter(2, [20, 90], "band", fs=RATE)
    x = lfilter(b, a, rng.standard_normal((samples, channels)), axis=0)
    x *= np.linspace(0.2, 1, samples)[:, None] * np.linspace(1, 4, channels)
    time = np.arange(samples)[:, None] / RATE
    return np.round(20 * x + hum * np.sin(2 * np.pi * 50 * time + rng.uniform(0, 6))).astype(np.int16)


def copies(users: dict[str, dict[str, np.ndarray]], groups: dict[str, str] | None = None) -> list[tuple[object, ...]]:
    prints = [fingerprint(u, r, x) for u, recordings in users.items() for r, x in recordings.items()]
    found = find_copies([p for p in prints if p], groups or {u: u for u in users}, lambda u, r: users[u][r])
    return [(*c.users, c.identical, c.near, c.same_group) for c in found]


def test_people_doing_the_same_gestures_are_not_flagged() -> None:
    users = {f"u{i}": {f"r{j}": emg(100 * i + j) for j in range(6)} for i in range(8)}
    assert copies(users) == []


def test_mains_hum_that_everybody_has_is_not_flagged() -> None:
    users = {f"u{i}": {f"r{j}": emg(100 * i + j, hum=200.0) for j in range(4)} for i in range(6)}
    assert copies(users) == []


TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "half as loud": lambda x: np.round(x * 0.5).astype(np.int16),
    "another type and unit": lambda x: (x * 2e-4).astype(np.float32),
    "offset": lambda x: x + 7,
    "offset and gain per channel": lambda x: x * np.linspace(0.5, 2, x.shape[1]) + np.arange(x.shape[1]),
    "inverted": lambda x: -x,
    "ten samples later": lambda x: x[10:],
    "end cut off": lambda x: x[:-100],
    "noise": lambda x: x + np.random.default_rng(0).normal(0, 0.1 * x.std(), x.shape),
    "rotated by one electrode": lambda x: np.roll(x, 1, axis=1),
    "high-pass": lambda x: lfilter(*butter(2, 20, "high", fs=RATE), x, axis=0),
}


@pytest.mark.parametrize("change", TRANSFORMS)
def test_a_changed_copy_is_found(change: str) -> None:
    users = {f"u{i}": {f"r{j}": emg(100 * i + j) for j in range(4)} for i in range(4)}
    users["thief"] = {"mine": emg(999), "stolen": TRANSFORMS[change](users["u2"]["r1"])}
    assert copies(users) == [("thief", "u2", 0, 1, False)]


def test_identical_recordings_are_counted_once_and_groups_are_marked() -> None:
    users = {f"u{i}": {f"r{j}": emg(100 * i + j) for j in range(3)} for i in range(3)}
    users["u2"]["again"] = users["u0"]["r0"].copy()
    users["u2"]["louder"] = users["u0"]["r1"] * 2
    assert copies(users) == [("u0", "u2", 1, 1, False)]
    assert copies(users, {"u0": "same", "u1": "u1", "u2": "same"}) == [("u0", "u2", 1, 1, True)]


def test_copies_within_one_user_are_no_leak() -> None:
    users = {"a": {"r": emg(1), "s": emg(1)}, "b": {"r": emg(2)}}
    assert copies(users) == []


def test_short_recordings_are_compared_by_hash_only() -> None:
    short = [emg(i, samples=MIN_SAMPLES - 1) for i in range(2)]
    users = {"a": {"r": short[0], "s": short[1]}, "b": {"r": short[0], "s": short[1] * 2}}
    assert copies(users) == [("a", "b", 1, 0, False)]


def test_flat_recordings_say_nothing() -> None:
    flat = np.full((1000, 8), 3, np.int16)
    assert fingerprint("a", "r", flat) is None
    one_dead = emg(1)
    one_dead[:, 2] = 0
    assert copies({"a": {"r": one_dead}, "b": {"r": one_dead * 2}}) == [("a", "b", 0, 1, False)]


def test_the_waveform_check_is_far_from_its_threshold_on_both_sides() -> None:
    pairs = [same_waveform(emg(i), emg(1000 + i)) for i in range(20)]
    assert max(pairs) < CONFIRMED / 2
    assert same_waveform(emg(1), emg(1) * 3) > 3 * CONFIRMED
    assert same_waveform(emg(1), emg(1)[:, :4]) == 0.0
