"""Motor-unit pools: recruitment by size, rate coding and irregular discharge (Fuglevand, Winter and Patla 1993)."""

from __future__ import annotations

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


def draw_places(rng: np.random.Generator) -> Integers:
    """(muscles * UNITS,) source at which the fibres of each unit lie: one of its muscle's places."""
    place = rng.integers(0, SITES, (len(MUSCLES), UNITS))
    return (np.arange(len(MUSCLES))[:, None] * SITES + place).ravel()


def firing_rates(drive: Array, threshold: Array) -> Array:
    """Discharge rate in Hz of units of a ``threshold`` at a ``drive``; the arguments broadcast."""
    above = drive - threshold
    return np.where(above >= 0, np.minimum(RATE_MIN_HZ + RATE_GAIN_HZ * above, RATE_MAX_HZ), 0.0)


def discharges(rates: Array, rng: np.random.Generator) -> tuple[Integers, Array]:
    """Draw the discharges of units with the given rates (units, time at DRIVE_RATE_HZ): which unit, and when in s.

    Each unit is a renewal process of unit mean interval over the discharges that its rate makes due (time rescaling).
    """
    units, steps = rates.shape
    due = np.concatenate([np.zeros((units, 1)), np.cumsum(rates, axis=1) / DRIVE_RATE_HZ], axis=1)
    most = int(np.ceil(due[:, -1].max() * 1.3)) + 4
    intervals = np.maximum(1 + INTERVAL_CV * rng.standard_normal((units, most)), 0.3)
    intervals[:, 0] *= rng.uniform(0, 1, units)
    renewals = np.cumsum(intervals, axis=1)
    happens = renewals < due[:, -1:]
    # One increasing axis of all the units' own, so that a single interpolation inverts them.
    offset = np.arange(units)[:, None] * (due[:, -1].max() + 1)
    time = np.interp((renewals + offset)[happens], (due + offset).ravel(), np.tile(np.arange(steps + 1), units))
    return np.nonzero(happens)[0], time / DRIVE_RATE_HZ


def spike_trains(
    places: Integers, size: Array, drive: Array, rate_hz: float, pad: int, rng: np.random.Generator
) -> Signal:
    """Discharges of all units, summed over the units of each place.

    Args:
        places: from :func:`draw_places`
        size: (muscles,) relative number of fibres per unit of each muscle
        drive: (time at DRIVE_RATE_HZ, muscles)
        rate_hz: of the result
        pad: silent samples to put before and after
        rng: randomness of this stretch

    Returns:
        (samples + 2 pad, muscles * SITES) number of fibres that fire in each sample.
    """
    samples = round(len(drive) / DRIVE_RATE_HZ * rate_hz)
    trains = np.zeros((samples + 2 * pad, len(MUSCLES) * SITES), dtype=np.float32)
    muscle, index = np.nonzero(drive.max(axis=0)[:, None] >= THRESHOLD)
    if not len(muscle):
        return trains
    unit, time = discharges(firing_rates(drive.T[muscle], THRESHOLD[index][:, None]), rng)
    sample = np.minimum((time * rate_hz).astype(np.int64), samples - 1) + pad
    fibres = size[muscle] * SIZE[index]
    place = places[muscle * UNITS + index]
    flat = np.bincount(sample * trains.shape[1] + place[unit], weights=fibres[unit], minlength=trains.size)
    return flat.reshape(trains.shape).astype(np.float32)
