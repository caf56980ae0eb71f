"""Synthetic recordings in the official layout of emg2pose: a folder of HDF5 session files and metadata.csv.

For tests and for a full dry run of what would be done with the real 431 GiB. Layout, names and types follow
github.com/facebookresearch/emg2pose; the EMG is that of the synthetic cohort, the joint angles are smooth noise.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from emgup_model.config import Frozen, digest
from emgup_model.data.synthetic import cohort
from emgup_model.data.synthetic.activation import Segment
from emgup_model.data.synthetic.config import Device, SyntheticConfig
from emgup_model.data.synthetic.gestures import GESTURES
from emgup_model.data.synthetic.schedule import Planned
from emgup_model.data.synthetic.stages import STAGES
from emgup_model.errors import DataError
from emgup_model.files import atomic_path, write_atomic

GENERATOR = 1  # raise it whenever the same config would give other files
NOTE = ".generator.json"
RATE_HZ = 2000
CHANNELS = 16
FRAME_HZ = 60  # of the cameras
# What one row of a session file holds.
ROW = np.dtype([("time", "<f8"), ("joint_angles", "<f8", (20,)), ("emg", "<f4", (CHANNELS,))])
COLUMNS = (
    *("session", "user", "stage", "start", "end", "side", "filename", "moving_hand"),
    *("held_out_user", "held_out_stage", "split", "generalization"),
)
# Amplifier of the wristband: 16 bits, high-pass filtered, so no drift; the numbers are chosen.
DEVICE = Device(adc_bits=16, antialias=True, notch=False, drift_uv=0, noise_uv=3, powerline_uv=1, full_scale_uv=3276.8)
EPOCH = 1_670_313_600  # 2022-12-06, when recordings of the real set were made
STREAM = 2_000_000  # apart from the random numbers of the cohort's users
# A movement of a stage takes this long, in seconds (chosen).
MOVEMENT_S = (0.8, 1.4)


class Emg2PoseFilesConfig(Frozen):
    """A small copy of emg2pose, made of synthetic users. The real one has 193 users and 3.9 sessions a user."""

    users: int = Field(8, ge=1, le=1000)
    sessions: int = Field(2, ge=1, le=20, description="per user; the wristbands are put on anew for each")
    seconds: float = Field(60.0, ge=1, le=600, description="duration of a stage; about a minute in the real set")
    stages: tuple[str, ...] = Field(tuple(STAGES), min_length=1, description="names of stages; all 29 by default")
    seed: int = Field(0, ge=0, lt=2**63)

    @field_validator("stages")
    @classmethod
    def _known(cls, stages: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [s for s in stages if s not in STAGES]:
            raise ValueError(f"emg2pose has no stage '{unknown[0]}'; it has for example '{next(iter(STAGES))}'")
        if len(set(stages)) != len(stages):
            raise ValueError("a stage is listed twice")
        return stages


@dataclass(frozen=True)
class _File:
    """One session file: one hand in one stage of one session."""

    row: dict[str, str]
    user: int
    session: int
    stage: int
    side: str
    moves: bool


def generate(
    config: Emg2PoseFilesConfig, folder: str | Path, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write the files and, last, metadata.csv. Files that the same config has made are kept, so it can be interrupted.

    Args:
        config: what to make
        folder: made when it does not exist
        progress: called with (files done, files)

    Returns:
        Number of session files.

    Raises:
        DataError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    files = list(_files(config))
    try:
        _claim(config, folder)
        for done, file in enumerate(files, 1):
            path = folder / f"{file.row['filename']}.hdf5"
            if not path.exists():
                with atomic_path(path) as tmp:
                    _write(tmp, file, _series(config, file))
            if progress is not None:
                progress(done, len(files))
        write_atomic(folder / "metadata.csv", _table([f.row for f in files]))
    except OSError as e:
        raise DataError(f"{folder}: cannot be written ({e.strerror or e})") from None
    return len(files)


def _claim(config: Emg2PoseFilesConfig, folder: Path) -> None:
    """Mark the folder as made by this config; refuse one that holds anything else."""
    mark = json.dumps({"generator": digest({"generator": GENERATOR, "config": config.model_dump(mode="json")})})
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder for the files")
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    if present and (NOTE not in present or (folder / NOTE).read_text(encoding="utf-8", errors="replace") != mark):
        raise DataError(f"{folder} holds something that these settings did not make; use an empty folder")
    write_atomic(folder / NOTE, mark)


def _files(config: Emg2PoseFilesConfig) -> Iterator[_File]:
    for user in range(config.users):
        name = digest({"seed": config.seed, "user": user})[:10]
        held_out = config.users > 1 and user == config.users - 1
        for session in range(config.sessions):
            began = EPOCH + 86_400 * session + 400_000 * user
            session_name = f"{_date(began)}-{began}-{name[:5]}-cv-emg-pose-train@2"
            for number, stage in enumerate(config.stages):
                known = STAGES[stage]
                moving = "both" if known.both else ("right", "left")[session % 2]
                start = began + number * (config.seconds + 15)  # time to hear what comes next
                facts = {
                    "session": session_name,
                    "user": name,
                    "stage": stage,
                    "start": f"{start:.6f}",
                    "end": f"{start + config.seconds:.6f}",
                    "moving_hand": moving,
                    "held_out_user": str(held_out),
                    "held_out_stage": str(known.held_out),
                    **_split(held_out, known.held_out),
                }
                for side in ("left", "right"):
                    filename = f"{session_name}-recording-{number + 1}_{side}"
                    row = {**facts, "side": side, "filename": filename}
                    yield _File(row, user, session, list(STAGES).index(stage), side, moving in ("both", side))


def _split(held_out_user: bool, held_out_stage: bool) -> dict[str, str]:
    if not (held_out_user or held_out_stage):
        return {"split": "train", "generalization": "none"}
    kinds = [name for name, held in (("user", held_out_user), ("stage", held_out_stage)) if held]
    return {"split": "test", "generalization": "_".join(kinds)}


def _date(epoch: int) -> str:
    return str(np.datetime64(epoch, "s").astype("datetime64[D]"))


def _series(config: Emg2PoseFilesConfig, file: _File) -> npt.NDArray[np.void]:
    """(T,) rows of one session file."""
    samples = round(config.seconds * RATE_HZ)
    key = (STREAM, file.user, file.session, file.stage, file.side == "left")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(config.seed, spawn_key=key)))
    out = np.zeros(samples, ROW)
    out["time"] = float(file.row["start"]) + np.arange(samples) / RATE_HZ
    out["emg"] = _emg(config, file, samples, rng)
    out["joint_angles"] = _joint_angles(samples, rng)
    return out


def _emg(config: Emg2PoseFilesConfig, file: _File, samples: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(T, 16) microvolts of a hand that does the stage, or rests."""
    left = file.side == "left"
    arm = SyntheticConfig(
        gestures=len(GESTURES), channels=CHANNELS, sampling_rate_hz=RATE_HZ, seed=config.seed, device=DEVICE
    )
    user = replace(cohort.draw_user(arm, file.user), left=left)
    session = cohort.draw_session(arm, user, file.user, 2 * file.session + left)
    movements = STAGES[file.row["stage"]].movements if file.moves else (0,)
    start = float(file.row["start"]) - EPOCH - 86_400 * file.session - 400_000 * file.user
    plan = Planned("stage", 0, 0, start, samples, _segments(movements, samples / RATE_HZ, rng), 0.0, 0)
    codes = cohort.perform(arm, user, session, file.session, plan, rng).emg
    return codes.astype(np.float32) * np.float32(DEVICE.full_scale_uv / 2 ** (DEVICE.adc_bits - 1))


def _segments(movements: tuple[int, ...], seconds: float, rng: np.random.Generator) -> tuple[Segment, ...]:
    """The movements over and over, until the stage is over."""
    segments: list[Segment] = []
    left = seconds
    while left > 0:
        length = min(left, float(rng.uniform(*MOVEMENT_S)))
        segments.append(Segment(movements[len(segments) % len(movements)], length))
        left -= length
    return tuple(segments)


def _joint_angles(samples: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(T, 20) radians: smooth noise, held between frames. The first twentieth is zero, as if tracking had failed."""
    frames = -(-samples * FRAME_HZ // RATE_HZ)
    knots = 0.5 * rng.standard_normal((max(2, frames // 15), 20))
    at = np.linspace(0, len(knots) - 1, frames)
    angles = np.stack([np.interp(at, np.arange(len(knots)), k) for k in knots.T], axis=1)
    out = angles[np.arange(samples) * FRAME_HZ // RATE_HZ]
    out[: samples // 20] = 0
    return np.asarray(out)


def _write(path: Path, file: _File, series: npt.NDArray[np.void]) -> None:
    with h5py.File(path, "w") as out:
        group = out.create_group("emg2pose")
        # The real files take a third less than their rows, so they are compressed; chunks and filter are chosen.
        group.create_dataset(
            "timeseries", data=series, chunks=(min(len(series), 2000),), compression="gzip", compression_opts=1
        )
        for name in ("user", "session", "side", "filename"):
            group.attrs[name] = file.row[name]
        moving = file.row["moving_hand"]
        group.attrs["stage"] = f"{file.row['stage']}_{moving}"
        group.attrs["start"], group.attrs["end"] = float(file.row["start"]), float(file.row["end"])
        group.attrs["sample_rate"], group.attrs["num_channels"] = float(RATE_HZ), CHANNELS


def _table(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
