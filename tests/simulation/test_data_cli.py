from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emgup_model.data.store import Store, write_user
from emgup_simulation.cli import main
from tests.model.data.web import serving
from tests.toy import toy_info, toy_recordings

Emgup = Callable[..., tuple[int, str, str]]

DESCRIPTOR = """
name: mine
title: Two people
sampling_rate_hz: 100
channels: 4
unit: uV
ring: false
gestures: [rest, fist]
expected_users: 2
pattern: (?P<user>p[0-9])/(?P<gesture>rest|fist)_(?P<repetition>[0-9]+)\\.csv
first_repetition: 1
reader: {kind: csv, header_rows: 1, columns: [1, 2, 3, 4]}
drop:
  - pattern: _3\\.csv$
    reason: interrupted
"""


@pytest.fixture
def emgup(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Emgup:
    """Run the command; (exit status, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["emgup", *map(str, arguments)])
        with pytest.raises(SystemExit) as e:
            main()
        out, err = capsys.readouterr()
        code = e.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


def make_raw(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for person in ("p1", "p2"):
        for gesture in ("rest", "fist"):
            for repetition in (1, 2, 3):
                path = root / person / f"{gesture}_{repetition}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = [f"{i / 100},{','.join(f'{v:.3f}' for v in rng.normal(size=4))}" for i in range(400)]
                path.write_text("\n".join(["time,a,b,c,d", *rows]))
    (root / "readme.txt").write_text("hello")
    return root


def test_import_then_inspect(tmp_path: Path, emgup: Emgup) -> None:
    raw = make_raw(tmp_path / "raw")
    (tmp_path / "mine.yaml").write_text(DESCRIPTOR)
    store = tmp_path / "store"
    code, out, err = emgup("data", "import", "--dataset", tmp_path / "mine.yaml", "--raw", raw, "--out", store)
    assert code == 0, err
    for line in (
        r"dataset +mine: Two people",
        r"users +2 \(2 imported in [\d.]+ s, 0 unchanged\)",
        r"recordings +8",
        r"dropped +4 recordings: interrupted",
        r"ignored +1 other files, such as readme\.txt",
        rf"store +{re.escape(str(store))}",
    ):
        assert re.search(line, out), out
    code, out, _ = emgup("data", "import", "--dataset", tmp_path / "mine.yaml", "--raw", raw, "--out", store)
    assert (code, "0 imported" in out, "2 unchanged" in out) == (0, True, True)
    code, out, err = emgup("data", "inspect", store, "--users")
    assert code == 0, err
    for line in (
        r"users +2 *\n",
        r"rest +0\.3 +50\.0%",
        r"4 channels, 100 Hz, uV",
        r"p2 +1 +4 +0\.3",
        r"ok +no dead channels",
    ):
        assert re.search(line, out), out
    assert max(len(line) for line in out.splitlines()) <= 120


def test_duplicates_fail_unless_allowed(tmp_path: Path, emgup: Emgup) -> None:
    for user, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_user(tmp_path / f"{user}.h5", toy_info(user), toy_recordings(seed))
    code, out, err = emgup("data", "inspect", tmp_path)
    assert code == 2
    assert re.search(r"LEAK +a and b: 6 identical recordings, such as r0_g0 and r0_g0", out)
    assert err.strip().splitlines()[-1].startswith("emgup: subject leakage: 1 pairs of users share recordings (a = b)")
    code, out, _ = emgup("data", "inspect", tmp_path, "--allow-duplicates")
    assert code == 0
    assert "LEAK" in out


def test_a_pair_in_one_group_is_a_note(tmp_path: Path, emgup: Emgup) -> None:
    for user in ("a", "b"):
        write_user(tmp_path / f"{user}.h5", toy_info(user, group="g"), toy_recordings(1))
    code, out, _ = emgup("data", "inspect", tmp_path)
    assert code == 0
    assert re.search(r"note +a and b: 6 identical recordings.*one group, so one fold", out)
    assert "2, in 1 group that folds never split" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "nowhere"), "no store at nowhere"),
        (("import", "--dataset", "myo", "--raw", ".", "--out", "x"), "unknown dataset 'myo'; shipped are: 3dc, ciil"),
        (("import", "--dataset", "3dc", "--raw", "nowhere", "--out", "x"), "no folder at nowhere"),
        (("import", "--dataset", "3dc", "--raw", ".", "--out", "x"), "no file in . matches the pattern Participant"),
        (("import", "--dataset", "3dc", "--raw", ".", "--out", "x", "unit"), "override 'unit' is not of the form"),
        (("import", "--dataset", "3dc", "--raw", ".", "--out", "x", "rate=3"), "unknown key 'rate'"),
        (("synthesize", "--out", "x", "userz=3"), "unknown key 'userz'"),
        (("generate-emg2pose", "--out", "x", "stages=[Nap]"), "emg2pose has no stage 'Nap'"),
        (("download", "myo", "--out", "x"), "unknown dataset 'myo'; shipped are: 3dc, ciil"),
        (("download", "emg2pose", "--out", "x"), "emg2pose comes in parts; give --part one of: full (431.0 GiB), mini"),
        (("download", "emg2pose", "--out", "x", "--part", "half"), "emg2pose has no part 'half'; it has: full"),
        (("download", "3dc", "--out", "x", "downloads={}"), "3dc names no download; see https://github.com/LibEMG"),
        (("download", "3dc", "--out", "x", "--sha256", "12"), "--sha256 takes 64 hexadecimal digits"),
        (("download", "3dc", "--out", "x", "downloads.all.url=ftp://x"), "downloads.all.url"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emgup: Emgup, arguments: tuple[str, ...], message: str
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = emgup("data", *arguments)
    assert (code, out) == (2, "")
    (line,) = [text for text in err.splitlines() if text.strip()]
    assert line.startswith(f"emgup: {message}") or message in line
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_from_the_web_to_a_store(tmp_path: Path, emgup: Emgup) -> None:
    """emg2pose as its authors serve it, in small: generated, packed, downloaded, unpacked, imported, inspected."""
    made = tmp_path / "emg2pose_dataset"
    settings = ("users=2", "sessions=1", "seconds=1.5", "stages=[FingerWigglingSpreading, GraspPunchCloseFar]")
    code, out, err = emgup("data", "generate-emg2pose", "--out", made, *settings)
    assert (code, "8 of 2 users" in out) == (0, True), err
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(made, made.name)
    raw = tmp_path / "raw"
    with serving((tmp_path / "all.tar").read_bytes()) as web:
        overrides = (f"downloads.full.url={web.url}", "downloads.full.bytes=null")
        download = ("data", "download", "emg2pose", "--out", raw, "--part", "full", *overrides)
        code, out, err = emgup(*download)
        assert code == 0, err
        assert re.search(r"nobody has published one .* remembered in +\.download\.json", " ".join(out.split()))
        assert re.search(r"unpacked +10 files", out)  # with the generator's note
        code, out, err = emgup(*download)
        assert (code, "as expected" in out, "was there" in out, len(web.ranges)) == (0, True, True, 1)
        code, out, err = emgup(*download, "--sha256", "0" * 64, "--no-unpack")
        assert (code, out) == (2, "")
        assert err.strip().splitlines()[-1].startswith(f"emgup: {web.url}: the checksum is ")
    code, out, err = emgup(
        "data", "import", "--dataset", "emg2pose", "--raw", raw, "--out", tmp_path / "s", "--partial"
    )
    assert (code, "2 recordings: recording of the hand that rests" in out) == (0, True), err
    code, out, err = emgup("data", "inspect", tmp_path / "s")
    assert (code, "16 channels in a ring, 2000 Hz, uV" in out) == (0, True), err


def test_synthesize(tmp_path: Path, emgup: Emgup) -> None:
    overrides = ("users=2", "gestures=3", "repetitions=2", "seconds=2")
    code, out, err = emgup("data", "synthesize", "--out", tmp_path / "cohort", *overrides)
    assert code == 0, err
    assert "emgup data inspect" in out
    assert len(Store(tmp_path / "cohort").users) == 2
    code, out, err = emgup("data", "inspect", tmp_path / "cohort")
    assert code == 0, out + err


def test_bench_import_measures_and_leaves_no_store(tmp_path: Path, emgup: Emgup) -> None:
    raw, out = tmp_path / "raw", tmp_path / "bench" / "import.json"
    settings = ("users=2", "sessions=1", "seconds=2", "stages=[FingerWigglingSpreading]")
    assert emgup("data", "generate-emg2pose", "--out", raw, *settings)[0] == 0
    code, text, err = emgup("bench", "import", "--raw", raw, "--out", out)
    assert code == 0, err
    result = json.loads(out.read_text())
    assert (result["users"], result["recordings"]) == (2, 4)
    assert result["largest_recording_signal_mib"] == 4000 * 16 * 4 / 2**20
    assert result["largest_user_signal_mib"] == 2 * result["largest_recording_signal_mib"]
    assert result["peak_mib"] > 10
    assert "largest user signal, MiB" in text
    assert [p.name for p in out.parent.iterdir()] == ["import.json"]
    (next(raw.glob("*.hdf5"))).write_bytes(b"damaged")
    code, text, err = emgup("bench", "import", "--raw", raw, "--out", out)
    assert (code, text) == (2, "")
    assert err.strip().splitlines()[-1].startswith("emgup: the import failed: emgup: 1 of 2 users not imported")
