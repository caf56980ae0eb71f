from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from emgup_model.data.descriptor import load_descriptor
from emgup_model.data.importers import import_dataset
from emgup_model.data.inspect import inspect_store
from emgup_model.data.store import write_user
from emgup_model.errors import DataError
from tests.toy import toy_info, toy_recordings


def test_what_is_in_a_store(tmp_path: Path) -> None:
    recordings = toy_recordings(1)
    labels = np.array([0] * 100 + [2] * 200)
    recordings[0] = replace(recordings[0], label=labels)
    recordings[1] = replace(recordings[1], label=None, session=3)
    write_user(tmp_path / "a.h5", toy_info("a"), recordings)
    write_user(tmp_path / "b.h5", toy_info("b"), [r for r in toy_recordings(2) if r.label != 1])
    seen: list[tuple[str, int, int]] = []
    report = inspect_store(tmp_path, lambda *step: seen.append(step))
    assert seen == [("a", 1, 2), ("b", 2, 2)]
    a, b = report.users
    assert (a.sessions, a.recordings, a.seconds) == (2, 6, 18.0)
    assert a.class_seconds == (4.0, 3.0, 8.0)
    assert a.unlabelled_seconds == 3.0
    assert b.class_seconds == (6.0, 0.0, 6.0)
    assert (a.missing_classes, b.missing_classes) == ((), ("fist",))
    assert (a.clipped, a.dead_channels) == (0.0, ())
    assert report.leaks == report.related == ()


def test_clipping_counts_the_rails_of_the_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for user, level in (("loud", 100.0), ("fine", 10.0), ("quiet", 0.3)):
        recordings = [
            replace(r, emg=np.clip(np.round(rng.normal(0, level, (1000, 4))), -128, 127).astype(np.int16))
            for r in toy_recordings(1)
        ]
        write_user(tmp_path / f"{user}.h5", toy_info(user), recordings)
        if user == "loud":
            values = np.concatenate([r.emg for r in recordings])
            expected = np.mean((values == 127) | (values == -128))
    clipped = {u.info.user: u.clipped for u in inspect_store(tmp_path).users}
    assert clipped["loud"] == pytest.approx(expected)
    assert expected > 0.1
    assert clipped["fine"] == clipped["quiet"] == 0.0  # 0.3: only -1, 0, 1 occur, again and again


def test_dead_channels(tmp_path: Path) -> None:
    def broken(channel: int, factor: float, only: int | None = None) -> list[np.ndarray]:
        out = [r.emg.copy() for r in toy_recordings(1)]
        for i, emg in enumerate(out):
            if only is None or i == only:
                emg[:, channel] *= factor
        return out

    for user, signals in (
        ("a", broken(1, 0.0)),
        ("b", broken(2, 1e-3)),
        ("c", broken(3, 0.0, 4)),
        ("d", broken(0, 1.0)),
    ):
        pairs = zip(toy_recordings(1), signals, strict=True)
        write_user(tmp_path / f"{user}.h5", toy_info(user), [replace(r, emg=emg) for r, emg in pairs])
    dead = {u.info.user: u.dead_channels for u in inspect_store(tmp_path).users}
    assert dead == {"a": (1,), "b": (2,), "c": (3,), "d": ()}


def test_leaks_and_related_users(tmp_path: Path) -> None:
    for user, seed, group in (("a", 1, ""), ("b", 1, ""), ("c", 2, "pair"), ("d", 2, "pair"), ("e", 3, "")):
        write_user(tmp_path / f"{user}.h5", toy_info(user, group=group), toy_recordings(seed))
    report = inspect_store(tmp_path)
    assert [(c.users, c.identical, c.near) for c in report.leaks] == [(("a", "b"), 6, 0)]
    assert [(c.users, c.identical, c.near) for c in report.related] == [(("c", "d"), 6, 0)]


@pytest.mark.parametrize(("where", "name", "value"), [("/", "ring", 0), ("recordings/r0_g0", "repetition", 5)])
def test_content_that_is_not_what_its_hash_says(tmp_path: Path, where: str, name: str, value: int) -> None:
    write_user(tmp_path / "a.h5", toy_info("a"), toy_recordings(1))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file[where].attrs.modify(name, value)
    with pytest.raises(DataError, match=r"a\.h5: the content is not what its hash says"):
        inspect_store(tmp_path)


def test_a_changed_label_is_noticed(tmp_path: Path) -> None:
    write_user(tmp_path / "a.h5", toy_info("a"), toy_recordings(1))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["labels/r0_g0"][...] = 2
    with pytest.raises(DataError, match="not what its hash says"):
        inspect_store(tmp_path)


def test_the_real_myo_set_without_drops_shows_exactly_the_known_copies(tmp_path: Path, real_data: Path) -> None:
    """No pair of the other 37 users may be flagged, not even the two that are probably one person."""
    descriptor = load_descriptor("myo_armband", ["drop=[]", "expected_users=40"])
    import_dataset(descriptor, real_data / "myo_armband", tmp_path / "store")
    report = inspect_store(tmp_path / "store")
    assert [(c.users, c.identical, c.near) for c in report.leaks] == [
        (("evaluation_female0", f"pretraining_female{n}"), 28, 0) for n in (7, 8, 9)
    ]
    assert report.related == ()
    assert sum(u.seconds for u in report.users) == pytest.approx(176.6 * 60, abs=60)
    assert all(not u.missing_classes and not u.dead_channels for u in report.users)
