"""Amplifier and converter: gain, hum, noise, drift, the sampling rate of the device, rounding and clipping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

from emgup_model.data.synthetic.arrays import Array, Signal, Spectrum
from emgup_model.data.synthetic.config import Device

Codes = npt.NDArray[np.signedinteger]

ANALOG_RATE_HZ = 1000.0
NOTCH_WIDTH_HZ = 2.0
DRIFT_HZ = (0.2, 10.0)


def oversampling(sampling_rate_hz: float) -> int:
    """How many times faster than the device the signal is simulated: at least 1 kHz, above which EMG has nothing."""
    return max(1, int(np.ceil(ANALOG_RATE_HZ / sampling_rate_hz)))


@dataclass(frozen=True)
class Contact:
    """Skin and electrodes of one session, each (channels,): gain, RMS of mains and of wideband noise in microvolts."""

    gain: Array
    hum_uv: Array
    noise_uv: Array


def draw_contact(device: Device, channels: int, user_gain: float, rng: np.random.Generator) -> Contact:
    """How well the electrodes touch in one session."""
    gain = user_gain * np.exp(device.channel_gain_log_sd * rng.standard_normal(channels))
    hum = device.powerline_uv * np.exp(0.5 * rng.standard_normal(channels))
    noise = device.noise_uv * np.exp(device.noise_log_sd * rng.standard_normal(channels))
    return Contact(gain, hum, noise)


def record(emg: Signal, device: Device, rate_hz: float, contact: Contact, rng: np.random.Generator) -> Codes:
    """What the converter makes of the potentials.

    Args:
        emg: (T * q, channels) microvolts at ``rate_hz * q``, q = oversampling(rate_hz)
        device: the electronics
        rate_hz: of the device
        contact: of the electrodes
        rng: randomness of this recording

    Returns:
        (T, channels) signed integer codes, int8, int16 or int32 by the number of bits. Without an anti-alias filter
        what lies above half the device's rate is folded back, as on the armband the defaults imitate.
    """
    q = oversampling(rate_hz)
    n, channels = emg.shape
    t = np.arange(n) / (rate_hz * q)
    phase = rng.uniform(0, 2 * np.pi) + 0.3 * rng.standard_normal(channels)
    mains = np.sqrt(2) * contact.hum_uv * np.sin(2 * np.pi * device.powerline_hz * t[:, None] + phase)
    # White up to 500 Hz whatever the rate, so that a faster device does not see less of it in each hertz.
    noise = contact.noise_uv * np.sqrt(rate_hz * q / ANALOG_RATE_HZ) * rng.standard_normal((n, channels))
    x = contact.gain * emg + mains + noise
    spectrum: Spectrum = fft.rfft(x.astype(np.float32), axis=0)
    hz = np.fft.rfftfreq(n, 1 / (rate_hz * q)).astype(np.float64)
    spectrum = (spectrum + _drift_spectrum(device, hz, n, channels, rng)) * _response(device, hz, rate_hz)[:, None]
    return quantise(fft.irfft(spectrum, n=n, axis=0)[::q], device)


def quantise(microvolts: npt.NDArray[np.floating], device: Device) -> Codes:
    """Nearest code of a two's complement converter that clips at ``full_scale_uv``."""
    half = 2 ** (device.adc_bits - 1)
    codes = np.clip(np.rint(microvolts.astype(np.float64) * (half / device.full_scale_uv)), -half, half - 1)
    kind = np.int8 if device.adc_bits <= 8 else np.int16 if device.adc_bits <= 16 else np.int32
    return np.asarray(codes, dtype=kind)


def _drift_spectrum(device: Device, hz: Array, n: int, channels: int, rng: np.random.Generator) -> Spectrum:
    """Noise between 0.2 and 10 Hz that falls with frequency, of RMS ``drift_uv``, per channel."""
    shape = np.where((hz >= DRIFT_HZ[0]) & (hz <= DRIFT_HZ[1]), 1 / np.maximum(hz, DRIFT_HZ[0]), 0.0)
    power = np.sqrt((shape**2).sum()) or 1.0
    draws = rng.standard_normal((len(hz), channels)) + 1j * rng.standard_normal((len(hz), channels))
    return np.asarray(draws * (shape / power * device.drift_uv * n / 2)[:, None], dtype=np.complex64)


def _response(device: Device, hz: Array, rate_hz: float) -> Signal:
    """Magnitude response before sampling: notch, and a fourth-order low-pass when there is an anti-alias filter."""
    gain = np.ones_like(hz)
    if device.notch:
        off = (hz - device.powerline_hz) / NOTCH_WIDTH_HZ
        gain *= off**2 / (1 + off**2)
    if device.antialias:
        gain /= np.sqrt(1 + (hz / (0.4 * rate_hz)) ** 8)
    return np.asarray(gain, dtype=np.float32)
