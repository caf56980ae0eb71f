"""Settings of the synthetic cohort. Sources are listed in docs/synthetic-cohort.md; "chosen" means there is none."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emgup_model.config import Frozen
from emgup_model.data.synthetic.gestures import GESTURES

Share = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(ge=0, le=2)]


class Anatomy(Frozen):
    """How forearms differ between users."""

    radius_mm: float = Field(42.0, ge=20, le=80, description="mean radius of the forearm under the ring (chosen)")
    radius_sd_mm: float = Field(3.5, ge=0, le=10, description="its SD over users (chosen)")
    fat_median_mm: float = Field(4.0, ge=0, le=30, description="median thickness of the fat, after Maughan et al. 1984")
    fat_log_sd: Spread = Field(0.40, description="its log-normal SD (chosen; Maughan: men 3.3, women 6.7 mm)")
    angle_sd_deg: float = Field(4.0, ge=0, le=60, description="SD of a muscle's angular position (chosen)")
    depth_sd_mm: float = Field(0.8, ge=0, le=10, description="SD of a muscle's depth (chosen)")
    size_log_sd: Spread = Field(0.15, description="log-normal SD of a muscle's number of fibres (chosen)")


class Placement(Frozen):
    """How the ring sits on the arm."""

    rotation_sd_deg: float = Field(5.0, ge=0, le=180, description="SD over users of the ring's rotation (chosen)")
    session_rotation_sd_deg: float = Field(
        3.0, ge=0, le=180, description="SD of the further rotation per session (chosen)"
    )
    session_shift_sd_mm: float = Field(
        3.0, ge=0, le=50, description="SD of the shift along the arm per session (chosen)"
    )
    rotated_share: Share = Field(0.05, description="share of users who wear the ring rotated by `rotated_deg` (chosen)")
    rotated_deg: float = Field(
        45.0, ge=0, le=180, description="that rotation, either way (chosen: one pitch of eight electrodes)"
    )
    left_handed_share: Share = Field(0.05, description="share of left forearms (chosen; left-handers: 10.6 %)")


class Style(Frozen):
    """How users differ, and vary, in performing a gesture."""

    effort_log_sd: Spread = Field(0.20, description="log-normal SD of a user's contraction level (chosen)")
    gesture_effort_log_sd: Spread = Field(0.15, description="the same per gesture and user (chosen)")
    synergy_log_sd: Spread = Field(0.40, description="the same per muscle, gesture and user (chosen)")
    companion: Share = Field(0.50, description="largest share of another gesture a user mixes into one (chosen)")
    cocontraction: Share = Field(0.6, description="largest share of the mean drive given to every muscle (chosen)")
    rest_drive: Share = Field(0.016, description="median tonic drive of a relaxed muscle (chosen)")
    repetition_effort_log_sd: Spread = Field(0.15, description="log-normal SD of the level per repetition (chosen)")
    repetition_log_sd: Spread = Field(0.25, description="the same per muscle (chosen)")
    slip: Share = Field(0.20, description="largest share of another gesture mixed into one repetition (chosen)")
    force_noise: Spread = Field(0.08, description="relative SD of drive below 2 Hz (band: De Luca et al. 1982)")
    tremor: Spread = Field(0.04, description="relative SD of drive at 8-12 Hz (Halliday et al. 1999)")
    onset_s: float = Field(0.25, ge=0.02, le=2, description="time constant of contraction onset and release (chosen)")


class Fatigue(Frozen):
    """Myoelectric manifestations of fatigue over a session (Merletti et al. 1990)."""

    velocity_drop: Share = Field(0.12, description="loss of conduction velocity at full fatigue (chosen)")
    amplitude_rise: float = Field(0.20, ge=0, le=3, description="rise of amplitude at full fatigue (chosen)")
    time_constant_s: float = Field(
        120.0, gt=0, le=1e6, description="time constant of fatigue over the session (chosen)"
    )
    log_sd: Spread = Field(0.4, description="log-normal SD of fatigability over users (chosen)")


class Device(Frozen):
    """Electrodes, amplifier and converter; the defaults imitate a Myo armband (8 bits, no anti-alias filter)."""

    electrode_mm: float = Field(10.0, gt=0, le=50, description="electrode width around the arm (chosen)")
    spacing_mm: float = Field(12.0, gt=0, le=50, description="distance of the bipolar pair along the arm (chosen)")
    crosstalk: Share = Field(0.35, description="share of a channel leaking from around the ring (chosen)")
    user_gain_log_sd: Spread = Field(0.10, description="log-normal SD of the skin-electrode gain per user (chosen)")
    channel_gain_log_sd: Spread = Field(0.12, description="the same per channel and session (chosen)")
    noise_uv: float = Field(13.0, ge=0, description="median RMS of wideband noise (chosen; Myo at rest: 2 counts)")
    noise_log_sd: Spread = Field(0.25, description="its log-normal SD per channel and session (chosen)")
    powerline_uv: float = Field(6.0, ge=0, description="median RMS of mains hum before the notch (chosen)")
    powerline_hz: Literal[50, 60] = Field(50, description="mains frequency")
    notch: bool = Field(True, description="notch at the mains frequency; Myo recordings show one")
    drift_uv: float = Field(8.0, ge=0, description="RMS of drift and movement artefacts below 10 Hz (chosen)")
    antialias: bool = Field(False, description="low-pass before decimation; Myo spectra are flat up to 100 Hz: none")
    full_scale_uv: float = Field(1000.0, gt=0, description="input at which the converter clips (chosen)")
    adc_bits: int = Field(8, ge=4, le=24, description="converter resolution, two's complement")


class SyntheticConfig(Frozen):
    """A cohort of synthetic users. User i is the same whatever ``users`` is."""

    users: int = Field(20, ge=1, le=10_000, description="number of users")
    gestures: int = Field(7, ge=2, le=len(GESTURES), description="the first n of gestures.GESTURES; 0 is neutral")
    repetitions: int = Field(4, ge=1, le=1000, description="repetitions of the most frequent gesture per session")
    sessions: int = Field(1, ge=1, le=100, description="sessions; the ring is put on anew for each")
    seconds: float = Field(5.0, ge=0.2, le=600, description="duration of one held gesture")
    pause_s: float = Field(1.0, ge=0, le=3600, description="pause between two recordings")
    sampling_rate_hz: float = Field(200.0, ge=50, le=10_000, description="sampling rate")
    channels: int = Field(8, ge=1, le=256, description="electrodes of the ring, equally spaced")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything random")
    rest_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="null: one recording and one label per held gesture; a share: one continuous stream per repetition "
        "with that share of rest (neutral) between the gestures, in random order, and one label per sample",
    )
    imbalance: float = Field(
        1.0,
        ge=1,
        le=100,
        description="repetitions of the most over those of the least frequent gesture, order per user",
    )
    anatomy: Anatomy = Anatomy()
    placement: Placement = Placement()
    style: Style = Style()
    fatigue: Fatigue = Fatigue()
    device: Device = Device()
