"""The physics of the synthetic cohort: conduction, motor units, drive, electronics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emgup_model.data.synthetic import activation, conduction, motor_units, sensor
from emgup_model.data.synthetic.config import Device, Style
from emgup_model.data.synthetic.forearm import MUSCLES, SITES
from emgup_model.data.synthetic.gestures import GESTURES, base_drives

RATE = 1000.0
Array = npt.NDArray[np.float64]


def ring(channels: int = 8, rotation_deg: float = 0.0, left: bool = False, crosstalk: float = 0.0) -> conduction.Ring:
    return conduction.Ring(conduction.ring_angles(channels, np.deg2rad(rotation_deg), left), 10.0, 12.0, crosstalk)


def muscle_power(fat_mm: float, at_deg: Array) -> tuple[Array, float]:
    """Power above points around a superficial muscle 60 degrees wide, and its median frequency above the centre."""
    angle, depth = np.meshgrid(np.deg2rad(np.linspace(-30, 30, 13)), np.linspace(2, 14, 7))
    electrodes = conduction.Ring(np.deg2rad(at_deg), 10.0, 12.0, 0.0)
    table = conduction.transfer_table(angle.ravel(), depth.ravel(), 40 + fat_mm, fat_mm, electrodes).astype(float)
    hz = np.arange(1.0, 500.0)
    kz = 2 * np.pi * hz / 4000
    source = np.abs(conduction.fibre_spectrum(kz, 12.0)) ** 2
    gains = [
        np.interp(kz, conduction.KZ_GRID, table[:, k, e]) for k in range(table.shape[1]) for e in range(len(at_deg))
    ]
    power = (np.array(gains) ** 2).reshape(table.shape[1], len(at_deg), -1).sum(0) * source
    total = np.cumsum(power[0])
    return power.sum(1), float(hz[np.searchsorted(total, total[-1] / 2)])


@pytest.mark.parametrize(("fat_mm", "loss"), [(3.0, 0.313), (9.0, 0.802), (18.0, 0.900)])
def test_fat_attenuates_as_in_the_finite_element_model_of_kuiken_2003(fat_mm: float, loss: float) -> None:
    thin, fat = (muscle_power(mm, np.zeros(1))[0][0] for mm in (0.01, fat_mm))
    assert 1 - np.sqrt(fat / thin) == pytest.approx(loss, abs=0.1)


def test_fat_smooths_around_the_arm_and_lowers_the_frequencies() -> None:
    lean, lean_hz = muscle_power(2.0, np.array([0.0, 60.0]))
    thick, thick_hz = muscle_power(9.0, np.array([0.0, 60.0]))
    assert thick[1] / thick[0] > 2 * lean[1] / lean[0]
    assert thick_hz < lean_hz - 20


@given(st.floats(0, 1.5), st.floats(0.01, 2), st.floats(2, 25), st.floats(0, 15), st.floats(0.1, 10))
def test_potential_is_positive_and_falls_with_depth_and_fat(
    kx: float, kz: float, depth: float, fat: float, more: float
) -> None:
    def h(depth_mm: float, fat_mm: float) -> float:
        return float(conduction.skin_potential(np.array(kx), np.array(kz), np.array(depth_mm), fat_mm))

    assert 0 < h(depth + more, fat) < h(depth, fat)
    # At the lowest frequencies resistive fat raises the potential (Lowery et al. 2002), so fat is judged where EMG is.
    if kz > 0.1:
        assert h(depth, fat + 3 + more) < h(depth, fat) * 1.05


def test_rotation_by_one_pitch_shifts_the_channels_and_a_left_arm_reverses_them() -> None:
    angle, depth = np.deg2rad(np.array([10.0, 100.0, 205.0])), np.array([4.0, 8.0, 15.0])

    def table(**kw: object) -> npt.NDArray[np.float32]:
        return conduction.transfer_table(angle, depth, 42.0, 4.0, ring(crosstalk=0.3, **kw))  # type: ignore[arg-type]

    plain = table()
    np.testing.assert_allclose(table(rotation_deg=45.0), np.roll(plain, -1, axis=2), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(table(left=True), plain[:, :, -np.arange(8) % 8], rtol=1e-4, atol=1e-3)


def test_crosstalk_spreads_but_keeps_the_sum() -> None:
    mix = conduction.crosstalk_matrix(ring(crosstalk=0.3))
    np.testing.assert_allclose(mix.sum(axis=0), 1)
    assert mix[0, 0] > mix[1, 0] > mix[4, 0] > 0


def test_one_discharge_gives_a_short_potential_largest_above_its_source() -> None:
    electrodes = ring()
    source = electrodes.angle_rad[3:4]
    table = conduction.transfer_table(source, np.array([5.0]), 42.0, 3.0, electrodes)
    trains = np.zeros((400, 1), dtype=np.float32)
    trains[200] = 500
    x = conduction.surface_signal(trains, RATE, table, 12.0, 4.0)
    energy = (x**2).sum(axis=0)
    assert energy.argmax() == 3
    assert (x[180:221] ** 2).sum() > 0.99 * energy.sum()
    assert 10 < np.abs(x).max() < 2000  # microvolts


def test_slower_conduction_lowers_the_spectrum() -> None:
    rng = np.random.default_rng(0)
    table = conduction.transfer_table(np.array([0.0]), np.array([7.0]), 42.0, 3.0, ring())
    trains = (rng.random((8000, 1)) < 0.05).astype(np.float32)

    def median_hz(velocity: float) -> float:
        power = np.abs(np.fft.rfft(conduction.surface_signal(trains, RATE, table, 12.0, velocity)[:, 6])) ** 2
        total = np.cumsum(power)
        return float(np.searchsorted(total, total[-1] / 2) / 8)

    assert median_hz(3.2) == pytest.approx(0.8 * median_hz(4.0), rel=0.1)


def test_motor_units_are_recruited_by_size_and_fire_at_physiological_rates() -> None:
    rates = motor_units.firing_rates(np.array([0.0, 0.05, 0.3, 1.0]), motor_units.THRESHOLD[:, None])
    recruited = (rates > 0).sum(axis=0)
    assert recruited[0] == 0
    assert 0 < recruited[1] < recruited[2] < recruited[3] == motor_units.UNITS
    assert rates[rates > 0].min() >= 8
    assert rates.max() <= 35
    assert (np.diff(motor_units.THRESHOLD) > 0).all()
    assert (np.diff(motor_units.SIZE) > 0).all()


def test_discharges_follow_the_rate_code_and_are_irregular() -> None:
    rng = np.random.default_rng(1)
    places = motor_units.draw_places(rng)
    drive = np.zeros((2000, len(MUSCLES)))
    drive[:, 0] = (motor_units.THRESHOLD[0] + motor_units.THRESHOLD[1]) / 2  # one unit of the first muscle
    trains = motor_units.spike_trains(places, np.ones(len(MUSCLES)), drive, RATE, 100, rng)
    assert trains.shape == (20_200, len(MUSCLES) * SITES)
    assert not trains[:100].any()
    assert not trains[-100:].any()
    assert not trains[:, SITES:].any()
    fired = np.flatnonzero(trains.sum(axis=1))
    expected = float(motor_units.firing_rates(drive[0, 0], motor_units.THRESHOLD[0])) * 20
    assert len(fired) == pytest.approx(expected, rel=0.05)
    intervals = np.diff(fired)
    assert np.std(intervals) / np.mean(intervals) == pytest.approx(0.2, abs=0.05)


def test_every_gesture_has_its_own_pattern() -> None:
    base = base_drives()
    assert len(set(GESTURES)) == len(GESTURES) == 12
    assert GESTURES[0] == "neutral"
    assert not base[0].any()
    patterns = base[1:] / np.linalg.norm(base[1:], axis=1, keepdims=True)
    assert (patterns @ patterns.T - np.eye(len(patterns))).max() < 0.95


def test_contraction_ramps_up_and_trembles() -> None:
    rng = np.random.default_rng(2)
    steady = Style(force_noise=0, tremor=0)
    levels = activation.draw_style(steady, rng)
    held = [activation.Segment(0, 2.0), activation.Segment(5, 10.0)]
    curve = activation.drive_curves(levels, held, 0.0, steady, rng)
    strongest = int(levels[5].argmax())
    at_rest, soon, later = curve[150, strongest], curve[215, strongest], curve[400, strongest]
    assert at_rest < soon < later
    assert (curve[201:225, strongest] - curve[200:224, strongest] >= 0).all()
    shaky = activation.drive_curves(levels, held, 2.0, Style(force_noise=0, tremor=0.3), rng)[200:, strongest]
    power = np.abs(np.fft.rfft(shaky - shaky.mean())) ** 2
    hz = np.fft.rfftfreq(len(shaky), 0.01)
    assert power[(hz > 7) & (hz < 13)].sum() > 0.8 * power[hz > 3].sum()


@given(st.integers(0, 2**32), st.floats(0, 2), st.floats(0, 1))
def test_drive_stays_between_nothing_and_all(seed: int, spread: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    style = Style(effort_log_sd=spread, synergy_log_sd=spread, companion=share, cocontraction=share, force_noise=spread)
    levels = activation.draw_style(style, rng)
    curve = activation.drive_curves(levels, [activation.Segment(3, 0.5)], 0.1, style, rng)
    assert curve.shape == (40, len(MUSCLES))
    assert ((curve >= 0) & (curve <= 1)).all()


def contact(channels: int, hum: float = 0.0, noise: float = 0.0) -> sensor.Contact:
    return sensor.Contact(np.ones(channels), np.full(channels, hum), np.full(channels, noise))


@pytest.mark.parametrize(("bits", "kind"), [(8, np.int8), (12, np.int16), (16, np.int16), (24, np.int32)])
def test_converter_rounds_and_clips(bits: int, kind: type) -> None:
    codes = sensor.quantise(np.array([[-5000.0, -0.1, 0.0, 500.0, 5000.0]]), Device(adc_bits=bits))
    assert codes.dtype == kind
    half = 2 ** (bits - 1)
    assert codes[0, 0] == -half
    assert codes[0, -1] == half - 1
    assert codes[0, 3] == half // 2


def test_notch_takes_the_mains_away_and_nothing_else() -> None:
    emg = np.zeros((5000, 2), dtype=np.float32)
    rng = np.random.default_rng(3)

    def level(**kw: object) -> float:
        device = Device(adc_bits=24, drift_uv=0, **kw)
        return float(sensor.record(emg, device, 200.0, contact(2, hum=100.0), rng).std() * 1000 / 2**23)

    assert level(notch=False) == pytest.approx(100, rel=0.05)
    assert level(notch=True) < 1
    assert level(notch=True, powerline_hz=60) < 1


def test_without_anti_alias_filter_high_frequencies_are_folded_back() -> None:
    t = np.arange(5000) / 1000
    tone = (100 * np.sin(2 * np.pi * 130 * t))[:, None].astype(np.float32)
    rng = np.random.default_rng(4)

    def at_70_hz(antialias: bool) -> float:
        device = Device(adc_bits=16, drift_uv=0, antialias=antialias)
        x = sensor.record(tone, device, 200.0, contact(1), rng)[:, 0].astype(float)
        assert len(x) == 1000
        return float(np.abs(np.fft.rfft(x))[350])

    assert at_70_hz(False) > 5 * at_70_hz(True)
    assert sensor.oversampling(200.0) == 5
    assert sensor.oversampling(2000.0) == 1


def test_noise_has_the_level_asked_for() -> None:
    emg = np.zeros((20_000, 1), dtype=np.float32)
    device = Device(adc_bits=16, drift_uv=0, notch=False)
    codes = sensor.record(emg, device, 1000.0, contact(1, noise=20.0), np.random.default_rng(5))
    assert codes.std() * 1000 / 2**15 == pytest.approx(20, rel=0.05)
