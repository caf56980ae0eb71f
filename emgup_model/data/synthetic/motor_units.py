"""Motor-unit pools: recruitment by size, rate coding and irregular discharge (Fuglevand, Winter and Patla 1993)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emgup_model.data.synthetic.activation import DRIVE_RATE_HZ
from emgup_model.data.synthetic.arrays import Array, Integers, Signal
from emgup_model.data.synthetic.forearm import MUSCLES, SITES

UNITS = 40  # per muscle; real forearm muscles have 100 to 300 (Feinstein et al. 1955): chosen, for speed
RECRUITED_BY = 0.6  # drive at which the last unit joins
RECRUITMENT_RANGE = 60.0  # last over first threshold
FIBRES = (60.0, 1800.0)  # of the smallest and the largest unit; three times real ones, since there are fewer: chosen
RATE_MIN_HZ = 8.0
RATE_MAX_HZ = 35.0
RATE_GAIN_HZ = 45.0  # per unit of drive above threshold
INTERVAL_CV = 0.2

_INDEX = np.arange(1, UNITS + 1) / UNITS
THRESHOLD = RECRUITED_BY * RECRUITMENT_RANGE ** (_INDEX - 1)
SIZE = FIBRES[0] * (FIBRES[1] / FIBRES[0]) ** ((np.arange(UNITS)) / (UNITS - 1))


@dataclass(frozen=True)
class Pool:
    """Motor units of all muscles of one user.

    Attributes:
        source: (muscles * UNITS,) index of the place where each unit's fibres lie.
    """

    source: Integers


def draw_pool(rng: np.random.Generator) -> Pool:
    """Every unit gets one of its muscle's places."""
    site = rng.integers(0, SITES, (len(MUSCLES), UNITS))
    return Pool((np.arange(len(MUSCLES))[:, None] * SITES + site).ravel())


def firing_rates(drive: Array) -> Array:
    """(units, time) discharge rate in Hz of one or more muscles' units at drive (muscles, time)."""
    above = drive[:, None, :] - THRESHOLD[None, :, None]
    rate = np.where(above >= 0, np.minimum(RATE_MIN_HZ + RATE_GAIN_HZ * above, RATE_MAX_HZ), 0.0)
    return rate.reshape(-1, drive.shape[1])


def spike_trains(pool: Pool, size: Array, drive: Array, rate_hz: float, pad: int, rng: np.random.Generator) -> Signal:
    """Discharges of all units, summed over the units of each place.

    Args:
        pool: the units
        size: (muscles,) relative number of fibres per unit of each muscle
        drive: (time at DRIVE_RATE_HZ, muscles)
        rate_hz: of the result
        pad: silent samples to put before and after
        rng: randomness of this stretch

    Returns:
        (samples + 2 pad, places) number of fibres that fire in each sample.
    """
    seconds = len(drive) / DRIVE_RATE_HZ
    samples = round(seconds * rate_hz)
    places = len(MUSCLES) * SITES
    rate = firing_rates(drive.T)
    active = np.flatnonzero(rate.any(axis=1))
    trains = np.zeros((samples + 2 * pad, places), dtype=np.float32)
    if not len(active):
        return trains
    # Time rescaling: in units of expected discharges a renewal process of unit mean interval.
    expected = np.concatenate([np.zeros((len(active), 1)), np.cumsum(rate[active], axis=1) / DRIVE_RATE_HZ], axis=1)
    most = int(np.ceil(expected[:, -1].max() * 1.3)) + 4
    intervals = np.maximum(1 + INTERVAL_CV * rng.standard_normal((len(active), most)), 0.3)
    intervals[:, 0] *= rng.uniform(0, 1, len(active))
    renewals = np.cumsum(intervals, axis=1)
    row, _ = np.nonzero(renewals < expected[:, -1:])
    offset = np.arange(len(active)) * (expected[:, -1].max() + 1)  # makes one increasing axis of all units' own
    axis, value = (expected + offset[:, None]).ravel(), (renewals + offset[:, None])[renewals < expected[:, -1:]]
    times = np.tile(np.arange(expected.shape[1]), len(active))
    at = np.interp(value, axis, times) / DRIVE_RATE_HZ
    sample = np.minimum((at * rate_hz).astype(np.int64), samples - 1) + pad
    unit = active[row]
    fibres = (size[:, None] * SIZE[None, :]).ravel()[unit]
    flat = np.bincount(sample * places + pool.source[unit], weights=fibres, minlength=trains.size)
    return np.asarray(flat.reshape(trains.shape), dtype=np.float32)
