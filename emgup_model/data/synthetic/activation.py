"""How hard each muscle works at each moment: style of a user, onset, fluctuation and tremor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from emgup_model.data.synthetic.arrays import Array
from emgup_model.data.synthetic.config import Style
from emgup_model.data.synthetic.forearm import MUSCLES
from emgup_model.data.synthetic.gestures import base_drives

DRIVE_RATE_HZ = 100.0
# A held contraction starts a little above the level it settles to; in the Myo armband data by about 12 %.
OVERSHOOT = 0.15
OVERSHOOT_S = 1.5


@dataclass(frozen=True)
class Segment:
    """``seconds`` of one gesture."""

    gesture: int
    seconds: float


def draw_style(style: Style, rng: np.random.Generator) -> Array:
    """(gestures, muscles) drives of one user, of all gestures whatever number of them is recorded."""
    base = base_drives()
    gestures, muscles = base.shape
    effort = np.exp(style.effort_log_sd * rng.standard_normal())
    gesture_effort = np.exp(style.gesture_effort_log_sd * rng.standard_normal((gestures, 1)))
    synergy = np.exp(style.synergy_log_sd * rng.standard_normal((gestures, muscles)))
    # People close the hand a little while they flex the wrist, and so on: each gesture has its companion.
    other = base[1 + rng.integers(0, gestures - 1, gestures)]
    share = style.companion * rng.uniform(0, 1, (gestures, 1))
    drives = effort * gesture_effort * synergy * ((1 - share) * base + share * other)
    drives += style.cocontraction * rng.uniform() * drives.mean(axis=1, keepdims=True)
    drives[0] = style.rest_drive * np.exp(0.5 * rng.standard_normal(muscles))
    return np.asarray(np.clip(drives, 0, 1))


def drive_curves(
    levels: Array, segments: list[Segment], lead_in_s: float, style: Style, rng: np.random.Generator
) -> Array:
    """Drive of every muscle over time.

    Args:
        levels: (gestures, muscles) of this user
        segments: what is done, one after the other
        lead_in_s: how long before the first sample the first segment has begun
        style: spreads
        rng: randomness of this recording

    Returns:
        (time at DRIVE_RATE_HZ, muscles) in 0..1, from the beginning of the first segment less ``lead_in_s``.
    """
    counts = np.diff(np.rint(np.cumsum([0.0, *(s.seconds for s in segments)]) * DRIVE_RATE_HZ)).astype(int)
    performed = np.array([_perform(levels, s.gesture, style, rng) for s in segments])
    target = np.repeat(performed, counts, axis=0)
    target *= 1 + OVERSHOOT * np.exp(-_since_start(counts) / OVERSHOOT_S)[:, None]
    # Critically damped second order: no jump in level or slope. It starts relaxed.
    decay = np.exp(-1 / (DRIVE_RATE_HZ * style.onset_s / 2))
    smooth = lfilter([(1 - decay) ** 2], [1, -2 * decay, decay**2], target - levels[0], axis=0) + levels[0]
    n = len(smooth)
    slow = _band_noise(rng, n, len(MUSCLES), 0.1, 2.0)
    tremor = _band_noise(rng, n, 1, 8.0, 12.0)
    drive = smooth * (1 + style.force_noise * slow + style.tremor * tremor)
    return np.asarray(np.clip(drive[round(lead_in_s * DRIVE_RATE_HZ) :], 0, 1))


def _perform(levels: Array, gesture: int, style: Style, rng: np.random.Generator) -> Array:
    """(muscles,) drives of one repetition: never twice the same."""
    strength = np.exp(style.repetition_effort_log_sd * rng.standard_normal())
    muscles = np.exp(style.repetition_log_sd * rng.standard_normal(levels.shape[1]))
    slip, other = style.slip * rng.uniform(), 1 + int(rng.integers(0, len(levels) - 1))
    mixed = levels[gesture] if gesture == 0 else (1 - slip) * levels[gesture] + slip * levels[other]
    return np.asarray(strength * muscles * mixed)


def _since_start(counts: np.ndarray[tuple[int, ...], np.dtype[np.int_]]) -> Array:
    """Seconds since the segment began, for each of its samples."""
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray((np.arange(counts.sum()) - starts) / DRIVE_RATE_HZ)


def _band_noise(rng: np.random.Generator, n: int, columns: int, low_hz: float, high_hz: float) -> Array:
    """(n, columns) Gaussian noise of unit variance between two frequencies."""
    hz = np.fft.rfftfreq(n, 1 / DRIVE_RATE_HZ)
    spectrum = rng.standard_normal((len(hz), columns)) + 1j * rng.standard_normal((len(hz), columns))
    inside = (hz >= low_hz) & (hz <= high_hz)
    if not inside.any():  # shorter than one period: constant
        return np.zeros((n, columns))
    spectrum[~inside] = 0
    return np.asarray(np.fft.irfft(spectrum, n, axis=0) * n / np.sqrt(4 * inside.sum()))
