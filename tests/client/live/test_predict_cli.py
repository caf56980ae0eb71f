"""`emgup client predict` as a user runs it: a recording, standard input, TCP, Lab Streaming Layer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from emgup_client.app import personalize_once
from emgup_client.live.rejection import FIXED, calibrated_threshold, rejection_threshold
from emgup_client.personalized import open_personalized
from emgup_model.config import canonical_json
from emgup_model.data.store import UserFile
from emgup_model.data.windows import load_windows
from emgup_model.errors import ConfigError, DataError, EmgupError, ReleaseError
from emgup_model.methods import load_method, predict_logits
from emgup_model.personalize import percentiles_of
from emgup_model.wire import Personalize
from emgup_simulation.cli import app
from tests.client.homes import Home, make_home
from tests.toy import GESTURES


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = make_home(tmp_path_factory.mktemp("predict"), users=2)
    home.personalize("u0")
    return home


def lines(text: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    *decisions, summary = [json.loads(line) for line in text.splitlines()]
    assert {d["type"] for d in decisions} <= {"decision"}
    assert summary["type"] == "summary"
    return decisions, summary


def run(home: Home, *arguments: str, stdin: bytes = b"") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "emgup_simulation.cli", "client", "predict", "--home", str(home.folder), *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr.decode()
    return lines(done.stdout.decode())


def in_process(home: Home, *arguments: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    result = CliRunner().invoke(
        app, ["client", "predict", "--home", str(home.folder), *arguments], catch_exceptions=False
    )
    assert result.exit_code == 0
    return lines(result.stdout)


def offline(home: Home) -> list[str]:
    """Gestures of all windows of u0 as the evaluation decides them."""
    mine = open_personalized(home.folder)
    with UserFile(home.recording()) as file:
        windows = load_windows(file, mine.manifest.windows, mine.manifest.preprocessing, mine.manifest.scale)
    return [GESTURES[i] for i in predict_logits(mine.model, windows).argmax(1).tolist()]


def first_recording(home: Home) -> np.ndarray:
    with UserFile(home.recording()) as file:
        return file.read(file.recordings[0].name)


def test_a_recording_gets_the_decisions_of_the_evaluation(home: Home) -> None:
    decisions, summary = in_process(home, str(home.recording()), "--reject", "0")
    assert [d["gesture"] for d in decisions] == offline(home)
    assert len({d["gesture"] for d in decisions}) > 1
    assert summary["decisions"] == len(decisions)
    assert summary["rejected"] == 0
    assert 0 < summary["latency"]["p50_ms"] <= summary["latency"]["p95_ms"] <= summary["latency"]["p99_ms"]


def test_a_reader_that_goes_away_is_no_error(home: Home) -> None:
    command = [sys.executable, "-m", "emgup_simulation.cli", "client", "predict", "--home", str(home.folder)]
    process = subprocess.Popen(
        [*command, str(home.recording()), "--realtime"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["number"] == 0
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 0


def test_a_share_of_the_users_own_windows_is_rejected(home: Home) -> None:
    decisions, summary = in_process(home, str(home.recording()), "--reject", "0.2")
    assert summary["rejected"] == sum(d["gesture"] is None for d in decisions)
    assert summary["rejected"] / len(decisions) == pytest.approx(0.2, abs=0.02)


def test_a_fixed_threshold_comes_before_the_share(home: Home) -> None:
    decisions, _ = in_process(home, str(home.recording()), "--threshold", "0.7")
    assert [d["gesture"] is None for d in decisions] == [d["confidence"] < 0.7 for d in decisions]


def test_standard_input(home: Home) -> None:
    emg = first_recording(home).astype("<f4")
    decisions, _ = run(home, "--stdin", "--format", "float32", "--reject", "0", stdin=emg.tobytes())
    assert [d["gesture"] for d in decisions] == offline(home)[:29]


@pytest.mark.parametrize(("unit", "gain"), [("uV", 1e3), ("V", 1e-3), ("mV", 1.0)])
def test_a_stream_in_another_unit_is_converted(home: Home, unit: str, gain: float) -> None:
    emg = (first_recording(home).astype(np.float64) * gain).astype("<f4")
    streamed = ("--stdin", "--format", "float32", "--unit", unit, "--reject", "0")
    decisions, _ = run(home, *streamed, stdin=emg.tobytes())
    assert [d["gesture"] for d in decisions] == offline(home)[:29]


def test_a_model_made_in_mixed_precision_is_used_in_it(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    request = Personalize(
        release_id=home.files.id,
        method=canonical_json(load_method("adabn")).decode(),
        method_name="adabn",
        protocol="transductive",
        scenario="balanced",
        seed=0,
        cell="c" * 64,
        user="u0",
    )
    personalize_once(request, replace(home.settings(), precision="bf16"))
    mine = open_personalized(home.folder)
    with UserFile(home.recording()) as file:
        windows = load_windows(file, mine.manifest.windows, mine.manifest.preprocessing, mine.manifest.scale)
    noted = tuple(mine.evaluation["confidence_percentiles"])
    assert percentiles_of(predict_logits(mine.model, windows).softmax(1).amax(1)) == noted
    mine.model.precision = "fp32"
    assert percentiles_of(predict_logits(mine.model, windows).softmax(1).amax(1)) != noted


def test_tcp(home: Home) -> None:
    emg = first_recording(home).astype("<f4")
    server = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        connection, _ = server.accept()
        with connection:
            for piece in np.array_split(emg, 37):
                connection.sendall(piece.tobytes())

    thread = threading.Thread(target=send)
    thread.start()
    address = f"127.0.0.1:{server.getsockname()[1]}"
    decisions, _ = in_process(home, "--tcp", address, "--format", "float32", "--reject", "0")
    thread.join(10)
    server.close()
    assert [d["gesture"] for d in decisions] == offline(home)[:29]


def lsl() -> Any:
    try:
        import pylsl
    except (ImportError, RuntimeError) as e:
        pytest.skip(f"no Lab Streaming Layer here: {e}")
    return pylsl


def test_lab_streaming_layer(home: Home) -> None:
    pylsl = lsl()
    emg = first_recording(home)
    name = f"emgup-test-{uuid.uuid4()}"
    info = pylsl.StreamInfo(name, "EMG", 4, 100.0, "float32", name)
    done: list[Any] = []

    def serve() -> None:
        outlet = pylsl.StreamOutlet(info)
        if not outlet.wait_for_consumers(20):
            return
        for piece in np.array_split(emg, 11):
            outlet.push_chunk(piece.tolist())
            time.sleep(0.02)
        time.sleep(0.5)
        done.append(outlet.have_consumers())

    thread = threading.Thread(target=serve)
    thread.start()
    decisions, _ = in_process(home, "--lsl", name, "--reject", "0")
    thread.join(30)
    assert done == [True]
    assert [d["gesture"] for d in decisions] == offline(home)[:29]


def test_a_stream_of_another_device_is_refused(home: Home) -> None:
    pylsl = lsl()
    for channels, rate, message in ((3, 100.0, "3 channels"), (4, 200.0, "200 Hz")):
        name = f"emgup-test-{uuid.uuid4()}"
        outlet = pylsl.StreamOutlet(pylsl.StreamInfo(name, "EMG", channels, rate, "float32", name))
        with pytest.raises(DataError, match=message):
            in_process(home, "--lsl", name)
        del outlet


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], ConfigError, "name one source"),
        (["x.h5", "--stdin"], ConfigError, "name one source"),
        (["--stdin", "--format", "wav"], ConfigError, "unknown format 'wav'"),
        (["--tcp", "nowhere"], ConfigError, "HOST:PORT"),
        (["--tcp", "127.0.0.1:" + "9" * 5000], ConfigError, "HOST:PORT"),
        (["--stdin", "--unit", "adc"], DataError, "the samples are in 'adc', the release's in 'mV'"),
        (["x.h5", "--unit", "uV"], ConfigError, "says its unit itself"),
        (["--tcp", "127.0.0.1:1"], DataError, "cannot connect to 127.0.0.1:1"),
        (["missing.h5"], DataError, "no such file"),
        (["--stdin", "--threshold", "2"], ConfigError, "probability from 0 to 1"),
        (["--stdin", "--reject", "1"], ConfigError, "below 1"),
        (["--stdin", "--user", "u1"], DataError, "no personalized model of user 'u1'"),
        (["--stdin", "--cell", "0"], DataError, "no personalized model of user 'u0' cell 0"),
        (["--stdin", "--release", "zz"], DataError, "no personalized model of user 'u0' release zz"),
    ],
)
def test_bad_input_is_one_line(home: Home, arguments: list[str], error: type[EmgupError], message: str) -> None:
    with pytest.raises(error, match=message) as e:
        in_process(home, *arguments)
    assert "\n" not in str(e.value)


def test_a_damaged_release_is_not_used(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.personalize()
    path = home.folder / "releases" / home.files.id / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"toy", b"tax"))
    with pytest.raises(ReleaseError, match="not signed"):
        in_process(home, str(home.recording()))


def test_a_vault_of_several_users_asks_which(tmp_path: Path) -> None:
    home = make_home(tmp_path, users=2)
    home.personalize("u0")
    home.personalize("u1")
    with pytest.raises(DataError, match="choose one with --user: u0, u1"):
        open_personalized(home.folder)
    assert open_personalized(home.folder, "u1").user == "u1"


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_the_calibrated_threshold_rejects_the_share(seed: int, share: float) -> None:
    confidences = np.random.default_rng(seed).beta(5, 1, 5000)
    threshold = calibrated_threshold(np.percentile(confidences, np.arange(101)).tolist(), share)
    assert np.mean(confidences < threshold) == pytest.approx(share, abs=0.005)


def test_without_percentiles_the_threshold_is_fixed() -> None:
    assert rejection_threshold((), 0.05, None) == FIXED
    assert rejection_threshold((), 0.05, 0.3) == 0.3
    assert rejection_threshold((), 0.0, None) == 0.0
