"""Users, sessions and recordings of a synthetic cohort, and the store that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from emgup_model.config import digest
from emgup_model.data.store import SUFFIX, Recording, UserFile, UserInfo, write_user
from emgup_model.data.synthetic import activation, conduction, motor_units, sensor
from emgup_model.data.synthetic.activation import DRIVE_RATE_HZ, Segment
from emgup_model.data.synthetic.arrays import Array, Integers, Signal
from emgup_model.data.synthetic.config import SyntheticConfig
from emgup_model.data.synthetic.forearm import Forearm, draw_forearm, sizes_under_ring
from emgup_model.data.synthetic.gestures import GESTURES
from emgup_model.data.synthetic.schedule import Planned, plan_session
from emgup_model.errors import DataError

DATASET = "synthetic"
GENERATOR = 1  # raise it whenever the same config would give other samples
VELOCITY = 4.0  # m/s
VELOCITY_SD = 0.25
BLOCK_S = 5.0
MARGIN_S = 0.1  # longer than half an action potential of the deepest source


@dataclass(frozen=True)
class User:
    """Everything about a user that stays the same from session to session.

    Attributes:
        forearm: anatomy.
        drives: (gestures, muscles) how the user performs each gesture.
        places: (motor units,) source at which each unit lies.
        left: the ring is on the left forearm.
        rotation_deg: of the ring, apart from what each session adds.
        gain: of the skin-electrode contact.
        fatigability: relative to a median user.
        velocity: conduction velocity of the rested muscles, m/s.
        frequency_rank: (gestures,) 0 for the gesture that an imbalanced cohort makes this user's most frequent.
    """

    forearm: Forearm
    drives: Array
    places: Integers
    left: bool
    rotation_deg: float
    gain: float
    fatigability: float
    velocity: float
    frequency_rank: Integers


@dataclass(frozen=True)
class Session:
    """One putting-on of the ring: (grid, sources, channels) table, (muscles,) fibres under it, electrode contact."""

    table: Signal
    size: Array
    contact: sensor.Contact


def user_name(index: int) -> str:
    """Name of user ``index``: the same in a cohort of any size."""
    return f"syn{index:04d}"


def _rng(config: SyntheticConfig, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(config.seed, spawn_key=key)))


def _planted(share: float, index: int, offset: float) -> bool:
    """Whether user ``index`` has a property of that share: of any n users in a row, n * share within one have it."""
    return bool(np.floor((index + 1) * share + offset) > np.floor(index * share + offset))


def draw_user(config: SyntheticConfig, index: int) -> User:
    """User ``index``: independent of how many users, gestures, repetitions, sessions and channels there are."""
    rng = _rng(config, index, 0)
    place = config.placement
    forearm = draw_forearm(config.anatomy, rng)
    drives = activation.draw_style(config.style, rng)
    places = motor_units.draw_places(rng)
    rotation = place.rotation_sd_deg * rng.standard_normal()
    turned = place.rotated_deg * rng.choice([-1.0, 1.0])
    if _planted(place.rotated_share, index, 0.5):
        rotation += turned
    gain, fatigability = np.exp([config.device.user_gain_log_sd, config.fatigue.log_sd] * rng.standard_normal(2))
    velocity = float(np.clip(VELOCITY + VELOCITY_SD * rng.standard_normal(), 3.2, 5.0))
    left = _planted(place.left_handed_share, index, 0.0)
    rank = rng.permutation(len(GESTURES))
    return User(forearm, drives, places, left, float(rotation), float(gain), float(fatigability), velocity, rank)


def draw_session(config: SyntheticConfig, user: User, index: int, session: int) -> Session:
    """Where the ring sits in one session, and how well its electrodes touch."""
    rng = _rng(config, index, 1, session)
    place, device, arm = config.placement, config.device, user.forearm
    rotation = user.rotation_deg + place.session_rotation_sd_deg * rng.standard_normal()
    shift = place.session_shift_sd_mm * rng.standard_normal()
    angles = conduction.ring_angles(config.channels, np.deg2rad(rotation), user.left)
    ring = conduction.Ring(angles, device.electrode_mm, device.spacing_mm, device.crosstalk)
    table = conduction.transfer_table(arm.angle_rad, arm.depth_mm, arm.radius_mm, arm.fat_mm, ring)
    contact = sensor.draw_contact(device, config.channels, user.gain, rng)
    return Session(table, sizes_under_ring(arm, shift), contact)


def iter_recordings(config: SyntheticConfig, user_index: int) -> Iterator[Recording]:
    """The recordings of one user in the order in which they are made."""
    user = draw_user(config, user_index)
    for number in range(config.sessions):
        session = draw_session(config, user, user_index, number)
        rng_of = partial(_rng, config, user_index, 2, number)
        for plan in plan_session(config, user.frequency_rank, number, rng_of):
            rng = _rng(config, user_index, 3, number, plan.repetition, plan.key)
            yield perform(config, user, session, number, plan, rng)


def perform(
    config: SyntheticConfig, user: User, session: Session, number: int, plan: Planned, rng: np.random.Generator
) -> Recording:
    """One recording: ``plan`` done by ``user`` in session ``number``; its samples are codes of the converter."""
    *others, last = plan.segments
    segments = [*others, Segment(last.gesture, last.seconds + MARGIN_S)]  # the grid of the drives is a coarse one
    drive = activation.drive_curves(user.drives, segments, plan.lead_in_s, config.style, rng)
    q = sensor.oversampling(config.sampling_rate_hz)
    rate = config.sampling_rate_hz * q
    emg = _simulate(config, user, session, drive, plan.start_s, rate, rng)
    codes = sensor.record(emg[: plan.samples * q], config.device, config.sampling_rate_hz, session.contact, rng)
    return Recording(plan.name, number, plan.repetition, plan.start_s, codes, plan.label)


def _simulate(
    config: SyntheticConfig,
    user: User,
    session: Session,
    drive: Array,
    start_s: float,
    rate: float,
    rng: np.random.Generator,
) -> Signal:
    """(samples, channels) microvolts at ``rate`` for (time, muscles) drive, in blocks, each with its own fatigue."""
    margin = round(MARGIN_S * rate)
    blocks = np.array_split(drive, max(1, round(len(drive) / (BLOCK_S * DRIVE_RATE_HZ))))
    starts = np.cumsum([0, *(len(b) for b in blocks[:-1])])
    total = round(len(drive) / DRIVE_RATE_HZ * rate)
    out = np.zeros((total + 2 * margin, config.channels), dtype=np.float32)
    for first, part in zip(starts.tolist(), blocks, strict=True):
        tired = user.fatigability * -np.expm1(-(start_s + first / DRIVE_RATE_HZ) / config.fatigue.time_constant_s)
        velocity = user.velocity * max(0.5, 1 - config.fatigue.velocity_drop * tired)
        trains = motor_units.spike_trains(user.places, session.size, part, rate, 2 * margin, rng)
        block = conduction.surface_signal(trains, rate, session.table, config.device.spacing_mm, velocity)
        block = block[margin:-margin] * np.float32(1 + config.fatigue.amplitude_rise * tired)
        at = round(first / DRIVE_RATE_HZ * rate)
        out[at : at + len(block)] += block[: len(out) - at]
    return out[margin : margin + total]


def user_info(config: SyntheticConfig, index: int) -> UserInfo:
    """Header of user ``index``. Its attribute ``generator`` says what made the file: version, config and user."""
    said = config.model_dump(mode="json", exclude={"users"})
    return UserInfo(
        user=user_name(index),
        dataset=DATASET,
        sampling_rate_hz=config.sampling_rate_hz,
        channels=config.channels,
        unit="adc",
        gestures=GESTURES[: config.gestures],
        ring=True,
        attributes={
            "handedness": "left" if draw_user(config, index).left else "right",
            "generator": digest({"generator": GENERATOR, "config": said, "user": index}),
        },
    )


def synthesize(config: SyntheticConfig, store: str | Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the cohort into the folder ``store``, one file per user.

    Every file appears complete or not at all, and a file that the same config has made is kept, so that a run that was
    interrupted goes on where it stopped. Files of another synthetic config are replaced.

    Args:
        config: the cohort
        store: folder; made when it does not exist
        progress: called with (users done, users)

    Raises:
        DataError: the folder holds something that is not one of this cohort's users; nothing is written.
    """
    folder = Path(store)
    existing = _existing(config, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(config.users):
        info = user_info(config, index)
        if existing.get(info.user) != info.attributes["generator"]:
            write_user(folder / f"{info.user}{SUFFIX}", info, iter_recordings(config, index))
        if progress is not None:
            progress(index + 1, config.users)


def _existing(config: SyntheticConfig, folder: Path) -> dict[str, str]:
    """What made each of this cohort's files that are there; damaged ones are left out, to be made again."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder for the store")
    ours = {user_name(i) for i in range(config.users)}
    made_by: dict[str, str] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
        user = path.name.removesuffix(SUFFIX)
        if user not in ours:
            raise DataError(f"{path} is no user of this cohort of {config.users}; use an empty folder, or remove it")
        try:
            with UserFile(path) as file:
                info = file.info
        except DataError:
            continue
        if info.dataset != DATASET:
            raise DataError(f"{path} belongs to the dataset '{info.dataset}'; use an empty folder for the cohort")
        made_by[user] = str(info.attributes.get("generator"))
    return made_by
