"""From the fibres to the skin: action potential, fat, electrodes.

A fibre is an infinite line source at depth h below the fascia, along which an action potential of fixed shape runs with
velocity v, so that temporal frequency f and spatial frequency along the fibre are one: kz = 2 pi f / v. The muscle is
an anisotropic half-space under a layer of fat with an insulating surface (the planar layer model of Farina and Merletti
2001, without its separate skin layer), wrapped around the arm: kx = n / radius, n = 0, 1, 2 ... With k^2 = kx^2 + kz^2
and ka^2 = kx^2 + (sl / st) kz^2, continuity of potential and current at the fascia gives, on the skin above a source,

    H(kx, kz) = exp(-ka h) / (st ka cosh(k d) + sf k sinh(k d)),   d: thickness of the fat; st, sl, sf: conductivities.

So fat attenuates and smooths, depth does both and lowers the frequencies, and a slower v shifts the spectrum down.
The ends of the fibres are left out: what they add, common to distant channels, is the device's ``crosstalk``.
Units: mm, mV, mA, S/mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

from emgup_model.data.synthetic.arrays import Array, Signal, Spectrum

MUSCLE_TRANSVERSE = 0.1e-3  # S/mm
MUSCLE_LONGITUDINAL = 0.5e-3
FAT = 0.05e-3
INTRACELLULAR = 1.0e-3
FIBRE_RADIUS_MM = 0.025
HARMONICS = 48

# Fine where the filters change fast with frequency, coarse where little is left: up to 2.5 rad/mm (1 kHz at 2.5 m/s).
KZ_GRID = 2.5 * np.linspace(0.02, 1, 44) ** 2


@dataclass(frozen=True)
class Ring:
    """Electrodes around the arm.

    Attributes:
        angle_rad: (channels,) in the coordinates of :class:`.forearm.Muscle`.
        width_mm: of an electrode, around the arm.
        spacing_mm: of its bipolar pair, along the arm.
        crosstalk: share of every channel that leaks from around the ring.
    """

    angle_rad: Array
    width_mm: float
    spacing_mm: float
    crosstalk: float


def ring_angles(channels: int, rotation_rad: float, left: bool) -> Array:
    """(channels,) electrode angles, channel 0 dorsally. A left arm is the mirror image: the ring runs backwards."""
    steps = 2 * np.pi * np.arange(channels) / channels
    return np.asarray(np.pi / 2 + rotation_rad + (-steps if left else steps))


def skin_potential(kx: Array, kz: Array, depth_mm: Array, fat_mm: float) -> Array:
    """H(kx, kz) of a source below the fascia under ``fat_mm`` of fat, in mm^2/S. Arguments broadcast; kz > 0."""
    k = np.hypot(kx, kz)
    ka = np.sqrt(kx**2 + (MUSCLE_LONGITUDINAL / MUSCLE_TRANSVERSE) * kz**2)
    muscle = MUSCLE_TRANSVERSE * ka * np.cosh(k * fat_mm)
    return np.asarray(np.exp(-ka * depth_mm) / (muscle + FAT * k * np.sinh(k * fat_mm)))


def transfer_table(angle_rad: Array, depth_mm: Array, radius_mm: float, fat_mm: float, ring: Ring) -> Signal:
    """Potential at each electrode per unit line current of each source, over KZ_GRID.

    Args:
        angle_rad: (sources,)
        depth_mm: (sources,) below the fascia
        radius_mm: of the skin
        fat_mm: thickness of the fat
        ring: the electrodes

    Returns:
        (len(KZ_GRID), sources, channels) mm/S, real: the layers delay nothing.
    """
    arc = radius_mm - fat_mm
    n = np.arange(HARMONICS + 1)
    weight = np.where(n == 0, 1.0, 2.0) / (2 * np.pi * arc)
    weight = weight * np.sinc(n / arc * ring.width_mm / (2 * np.pi))
    cos = np.cos(n[:, None, None] * (angle_rad[:, None] - ring.angle_rad[None, :]))  # (N, sources, channels)
    depths, same = np.unique(depth_mm, return_inverse=True)
    h = skin_potential((n / arc)[None, :, None], KZ_GRID[:, None, None], depths[None, None, :], fat_mm)
    h = (h * weight[None, :, None])[:, :, same]
    table = np.einsum("gns,nsc->gsc", h, cos, optimize=True)
    return np.asarray(table @ crosstalk_matrix(ring), dtype=np.float32)


def crosstalk_matrix(ring: Ring) -> Array:
    """(channels, channels) leakage: a share of every channel spread around the ring, half as strong 60 degrees away."""
    apart = ring.angle_rad[:, None] - ring.angle_rad[None, :]
    spread = np.exp(np.log(2) / 0.5 * (np.cos(apart) - 1))
    spread /= spread.sum(axis=0, keepdims=True)
    return np.asarray((1 - ring.crosstalk) * np.eye(len(apart)) + ring.crosstalk * spread)


def fibre_spectrum(kz: Array, spacing_mm: float) -> npt.NDArray[np.complex128]:
    """Line current of one action potential as seen by a bipolar pair, over kz in rad/mm; mA.

    Rosenfalck's intracellular potential 96 z^3 exp(-z) - 90 (mV, mm), differentiated twice; the pair of electrodes at
    distance e adds 2 i sin(kz e / 2).
    """
    potential = 576.0 / (1 + 1j * kz) ** 4
    current = INTRACELLULAR * np.pi * FIBRE_RADIUS_MM**2 * -(kz**2) * potential
    return np.asarray(current * 2j * np.sin(kz * spacing_mm / 2))


def surface_signal(trains: Signal, rate_hz: float, table: Signal, spacing_mm: float, velocity: float) -> Signal:
    """Surface EMG of spike trains.

    Args:
        trains: (samples, sources) number of fibres that fire in each sample; zero at both ends for as long as an
            action potential lasts, because the convolution is circular
        rate_hz: of the trains and of the result
        table: from :func:`transfer_table`
        spacing_mm: of the bipolar pair
        velocity: of conduction, m/s

    Returns:
        (samples, channels) microvolts.
    """
    n = fft.next_fast_len(len(trains), real=True)
    spectrum = fft.rfft(trains, n=n, axis=0)
    kz = 2 * np.pi * np.arange(len(spectrum)) * rate_hz / n / (1000 * velocity)
    gain = 1000 * rate_hz / (1000 * velocity) * fibre_spectrum(kz, spacing_mm)
    inside = min(int(np.searchsorted(kz, KZ_GRID[-1])), len(kz))
    spectrum[:inside] *= gain[:inside, None].astype(np.complex64)
    out = np.zeros((len(spectrum), table.shape[2]), dtype=np.complex64)
    edges = np.searchsorted(kz[:inside], KZ_GRID[1:-1])
    for g, (a, b) in enumerate(zip(np.r_[0, edges], np.r_[edges, inside], strict=True)):
        if a == b:
            continue
        w = np.clip((kz[a:b] - KZ_GRID[g]) / (KZ_GRID[g + 1] - KZ_GRID[g]), 0, 1).astype(np.float32)[:, None]
        block = spectrum[a:b]
        low, high = _mix(block, table[g]), _mix(block, table[g + 1])
        out[a:b] = low + w * (high - low)
    return np.asarray(fft.irfft(out, n=n, axis=0)[: len(trains)], dtype=np.float32)


def _mix(block: Spectrum, mixing: Signal) -> Spectrum:
    """(F, sources) complex @ (sources, channels) real, as two real products."""
    return (block.real @ mixing + 1j * (block.imag @ mixing)).astype(np.complex64)
