"""Finding one recording under two user names: the leak that makes subject-disjoint folds meaningless.

Identical samples are found by hash. Copies that were scaled, shifted in level or time, trimmed, filtered, noised or
rotated by electrodes are found by a fingerprint: the fluctuations of the periodogram around its smooth trend. The
trend is what a muscle and a gesture have in common from person to person; the fluctuations are the particular
realisation of a noise-like signal, independent between two recordings and kept by all of those changes. Candidates are
then confirmed on the waveforms by phase correlation (Knapp & Carter 1976, 10.1109/TASSP.1976.1162830).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter1d

Array = npt.NDArray[Any]

# Samples compared, from each recording's start: 20 s at 200 Hz, 2 s at 2 kHz.
SPAN = 4096
# With fewer samples two unrelated periodograms may resemble each other: such recordings are compared by hash only.
MIN_SAMPLES = 256
_TREND_BINS = 101
# Unrelated recordings of the Myo set (2 million pairs) stay below 0.41, cut to 256 samples below 0.52.
CANDIDATE = 0.6
# Unrelated recordings of the Myo set stay below 0.07; copies trimmed by a fifth or with 30 % noise are above 0.58.
CONFIRMED = 0.25
MAX_CANDIDATES = 5000
_BLOCK = 1024


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of one recording; ``spectrum`` is None when the recording is too short or flat."""

    user: str
    recording: str
    sha256: str
    spectrum: Array | None


@dataclass(frozen=True)
class Copies:
    """Recordings that two users share. ``examples`` are pairs of recording names."""

    users: tuple[str, str]
    identical: int
    near: int
    examples: tuple[tuple[str, str], ...]
    same_group: bool


def fingerprint(user: str, recording: str, emg: Array) -> Fingerprint | None:
    """Fingerprint of ``emg`` (T, C); None when every channel is constant, which says nothing about anybody."""
    if (emg == emg[:1]).all():
        return None
    values = np.ascontiguousarray(emg)
    sha256 = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode() + values.tobytes()).hexdigest()
    return Fingerprint(user, recording, sha256, _spectrum(values))


def _spectrum(emg: Array) -> Array | None:
    """Unit vector (SPAN/2,) float32 of the log periodogram's fluctuations, summed over channels of equal weight."""
    if len(emg) < MIN_SAMPLES:
        return None
    x = emg[:SPAN].astype(np.float64)
    x -= x.mean(axis=0)
    power = (x * x).mean(axis=0)
    if not (power > 0).any():
        return None
    x = x[:, power > 0] / np.sqrt(power[power > 0])
    periodogram = (np.abs(np.fft.rfft(x, SPAN, axis=0)) ** 2).sum(axis=1)[1:]
    level = np.log(periodogram + 1e-3 * periodogram.mean())
    z = level - uniform_filter1d(level, _TREND_BINS)
    z = np.clip(z / (z.std() or 1.0), -3, 3)  # mains hum is a few huge bins that everybody shares
    z -= z.mean()
    unit: Array = (z / (np.linalg.norm(z) or 1.0)).astype(np.float32)
    return unit


def find_copies(
    prints: Sequence[Fingerprint], groups: dict[str, str], read: Callable[[str, str], Array]
) -> list[Copies]:
    """Pairs of users with identical or near-identical recordings, the most first.

    Args:
        prints: Fingerprints of every recording of the store.
        groups: user -> fold group; pairs inside one group are marked.
        read: (user, recording) -> samples (T, C), to confirm candidates.
    """
    identical = _identical(prints)
    near = _near(prints, read, {frozenset(pair) for pairs in identical.values() for pair in pairs})
    found = []
    for users in sorted(set(identical) | set(near)):
        same, similar = identical.get(users, []), near.get(users, [])
        examples = tuple((a[1], b[1]) for a, b in [*same, *similar][:3])
        inside = groups.get(users[0]) == groups.get(users[1])
        found.append(Copies(users, len(same), len(similar), examples, inside))
    return sorted(found, key=lambda c: (-c.identical - c.near, c.users))


_Key = tuple[str, str]
_Pairs = dict[tuple[str, str], list[tuple[_Key, _Key]]]


def _identical(prints: Sequence[Fingerprint]) -> _Pairs:
    by_hash: dict[str, list[_Key]] = defaultdict(list)
    for p in prints:
        by_hash[p.sha256].append((p.user, p.recording))
    pairs: _Pairs = defaultdict(list)
    for keys in by_hash.values():
        for i, a in enumerate(sorted(keys)):
            for b in sorted(keys)[i + 1 :]:
                if a[0] != b[0]:
                    pairs[a[0], b[0]].append((a, b))
    return pairs


def _near(prints: Sequence[Fingerprint], read: Callable[[str, str], Array], known: set[frozenset[_Key]]) -> _Pairs:
    pairs: _Pairs = defaultdict(list)
    candidates = [c for c in _candidates(prints) if frozenset(c[1:]) not in known]
    for _, a, b in sorted(candidates, reverse=True)[:MAX_CANDIDATES]:
        if same_waveform(read(*a), read(*b)) > CONFIRMED:
            first, second = sorted((a, b))
            pairs[first[0], second[0]].append((first, second))
    return pairs


def _candidates(prints: Sequence[Fingerprint]) -> Iterator[tuple[float, _Key, _Key]]:
    """Pairs of different users whose fingerprints correlate."""
    usable = [p for p in prints if p.spectrum is not None]
    if not usable:
        return
    vectors = np.stack([p.spectrum for p in usable if p.spectrum is not None])
    keys = [(p.user, p.recording) for p in usable]
    number = {user: i for i, user in enumerate(sorted({p.user for p in usable}))}
    users = np.array([number[p.user] for p in usable])
    for start in range(0, len(vectors), _BLOCK):
        similarity = vectors[start : start + _BLOCK] @ vectors[start:].T
        similarity[users[start : start + _BLOCK, None] == users[None, start:]] = 0
        for i, j in np.argwhere(similarity > CANDIDATE):
            if i < j:
                yield float(similarity[i, j]), keys[start + i], keys[start + j]


def same_waveform(a: Array, b: Array) -> float:
    """Peak of the phase correlation of two recordings (T, C), over time shifts and rotations of the channels, 0 to 1.

    Every frequency counts the same, so hum and a common spectrum add nothing; sign and gain are ignored.
    """
    if a.shape[1] != b.shape[1]:
        return 0.0
    length = min(max(len(a), len(b)), SPAN)
    first, second = (_phases(x, length) for x in (a, b))
    best = 0.0
    for turn in range(a.shape[1]):
        cross = (first * np.conj(np.roll(second, turn, axis=1))).mean(axis=1)
        best = max(best, float(np.abs(np.fft.irfft(cross, 2 * length)).max()))
    return best


def _phases(emg: Array, length: int) -> Array:
    x = emg[:length].astype(np.float64)
    spectrum = np.fft.rfft(x - x.mean(axis=0), 2 * length, axis=0)
    size = np.abs(spectrum)
    return np.divide(spectrum, size, out=np.zeros_like(spectrum), where=size > 1e-9 * (size.max() or 1.0))
