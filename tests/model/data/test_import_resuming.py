"""An import that was stopped or repeated."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from emgup_model.data import importers
from emgup_model.data.descriptor import load_descriptor
from emgup_model.data.importers import import_dataset
from emgup_model.data.recording import UserInfo
from emgup_model.data.store import Recording, Store, write_user
from emgup_model.errors import DataError
from tests.model.data.raw_sets import contents, imported, make_myo, signal, write_raw


class TestResuming:
    def test_a_second_import_does_only_what_changed(self, tmp_path: Path) -> None:
        raw, out = tmp_path / "raw", tmp_path / "out"
        make_myo(raw)
        imported("myo_armband", raw, out)
        before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")}
        again = imported("myo_armband", raw, out)
        assert (again.imported, len(again.skipped), again.recordings) == ((), 3, 196)
        assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")} == before

        write_raw(raw / "PreTrainingDataset/Female0/training0/classe_3.dat", signal(99))
        assert imported("myo_armband", raw, out).imported == ("pretraining_female0",)
        np.testing.assert_array_equal(contents(out / "pretraining_female0.h5")[3][4], signal(99))

        (out / "evaluation_male11.h5").write_bytes(b"damaged")
        assert imported("myo_armband", raw, out).imported == ("evaluation_male11",)
        assert len(imported("myo_armband", raw, out, "unit=raw").imported) == 3
        assert len(imported("myo_armband", raw, out, "unit=raw", force=True).imported) == 3

    def test_an_import_that_died_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        raw, out = tmp_path / "raw", tmp_path / "out"
        make_myo(raw)
        made: list[str] = []

        def dying(path: Path, info: UserInfo, recordings: Iterable[Recording]) -> None:
            if made:
                raise KeyboardInterrupt
            made.append(info.user)
            write_user(path, info, recordings)

        monkeypatch.setattr(importers, "write_user", dying)
        with pytest.raises(KeyboardInterrupt):
            imported("myo_armband", raw, out)
        monkeypatch.undo()
        rest = imported("myo_armband", raw, out)
        assert (rest.skipped, len(rest.imported)) == (("evaluation_female0",), 2)
        imported("myo_armband", raw, tmp_path / "whole")
        for user in Store(out).users:
            assert (out / f"{user}.h5").read_bytes() == (tmp_path / f"whole/{user}.h5").read_bytes()

    def test_a_user_half_read_leaves_nothing_behind(self, tmp_path: Path) -> None:
        raw, out = tmp_path / "raw", tmp_path / "out"
        make_myo(raw)
        broken = raw / "EvaluationDataset/Male11/Test1/classe_27.dat"
        broken.write_bytes(b"x")
        with pytest.raises(
            DataError, match=r"1 of 3 users not imported, such as evaluation_male11: .*classe_27\.dat: 1 b"
        ):
            imported("myo_armband", raw, out)
        others = {"evaluation_female0.h5", "pretraining_female0.h5"}
        assert {p.name for p in out.iterdir()} == others | {importers.LEDGER}
        broken.unlink()
        again = imported("myo_armband", raw, out)
        assert (again.imported, len(again.skipped)) == (("evaluation_male11",), 2)

    def test_dropping_one_recording_costs_one_user(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw")
        imported("myo_armband", tmp_path / "raw", tmp_path / "out")
        drop = "drop=[{pattern: Male11/Test1/classe_27, reason: torn}]"
        again = imported("myo_armband", tmp_path / "raw", tmp_path / "out", drop, "expected_users=9", "title=other")
        assert (again.imported, len(again.skipped)) == (("evaluation_male11",), 2)

    def test_one_import_at_a_time(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female0"])
        out = tmp_path / "out"
        out.mkdir()
        fd = os.open(out, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"another import is writing .*out; wait for it"):
            imported("myo_armband", tmp_path / "raw", out)
        os.close(fd)
        assert len(imported("myo_armband", tmp_path / "raw", out).imported) == 1

    def test_a_broken_ledger_only_costs_time(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female0"])
        imported("myo_armband", tmp_path / "raw", tmp_path / "out")
        for text in ("not json", "[1]", json.dumps({"pretraining_female0": "x"})):
            (tmp_path / "out" / importers.LEDGER).write_text(text)
            assert imported("myo_armband", tmp_path / "raw", tmp_path / "out").imported == ("pretraining_female0",)

    def test_a_store_with_strangers_is_refused(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female7", "PreTraining/Female6"])
        imported("myo_armband", tmp_path / "raw", tmp_path / "out", "drop=[]")
        with pytest.raises(DataError, match="already holds 'pretraining_female7'"):
            imported("myo_armband", tmp_path / "raw", tmp_path / "out")
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="is a file; give --out a folder"):
            imported("myo_armband", tmp_path / "raw", tmp_path / "file")

    def test_progress_counts_to_the_end(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw")
        seen: list[tuple[str, int, int]] = []
        import_dataset(
            load_descriptor("myo_armband"), tmp_path / "raw", tmp_path / "out", partial=True,
            progress=lambda *step: seen.append(step),
        )  # fmt: skip
        assert len(seen) == 196
        assert [s[1] for s in seen] == sorted(s[1] for s in seen)
        assert seen[-1][1] == seen[-1][2] == 196 * 12 * 8 * 2
