from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from emgup_model.backbones import CnnConfig
from emgup_model.backbones.describe import Shape, describe
from emgup_model.compute import ComputeConfig
from emgup_model.config import dump_yaml
from emgup_model.errors import ConfigError, RunError
from emgup_simulation import backbone_worker
from emgup_simulation.bench_backbones import backbones
from emgup_simulation.cli import main
from tests.model.backbones.nets import small_neuropose


def info(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["emgup", "model", "info", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_info_prints_the_published_facts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert info(monkeypatch, "vemg2pose") == 0
    out = capsys.readouterr().out
    assert "16 channels x 2000 samples, 1000 ms at 2000 Hz" in out
    assert "encoder 2,633,856" in out
    assert "13 LayerNorm" in out
    assert "1791 samples, 895.5 ms" in out


def test_info_takes_settings_of_network_and_window(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert info(monkeypatch, "neuropose_200hz", "norm=ln", "residual_blocks=0", "channels=12", "window=64") == 0
    out = capsys.readouterr().out
    assert "12 channels x 64 samples, 320 ms at 200 Hz" in out
    assert "3 MapLayerNorm" in out
    assert "residual" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "unknown backbone 'nope'"),
        (["cnn", "wdth=3"], "wdth"),
        (["cnn", "channels=0"], "channels = 0"),
        (["cnn", "channels"], "not of the form"),
        (["vemg2pose", "window=100"], "at least 1791 samples"),
        (["vemg2pose", "rate_hz=200"], "scaled for 2000 Hz"),
        (["vemg2pose", "width=100"], "multiple of block_channels"),
        (["neuropose", "channels=8"], "pools 16 channels"),
        (["neuropose", "norm=gn"], "norm"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert info(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


@given(st.integers(1, 20), st.integers(2, 9), st.integers(4, 40))
def test_operations_of_cnn_are_the_sums_written_out(channels: int, classes: int, window: int) -> None:
    config = CnnConfig(width=4, kernel=3, embedding_dim=4)
    found = describe(config, Shape(channels=channels, classes=classes, window=window, rate_hz=200))
    half = -(-window // 2)
    convolutions = 3 * 4 * (channels * window + 4 * half + 4 * -(-half // 2))
    assert found.multiply_adds == convolutions + 4 * 4 + 4 * classes
    assert sum(found.parameters.values()) == 3 * 4 * (channels + 8) + 3 * 8 + 16 + 8 + 5 * classes


@pytest.fixture
def network(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(dump_yaml(small_neuropose()))
    return file


@pytest.mark.parametrize("loop", ["bare", "project"])
def test_both_loops_of_the_benchmark_train(network: Path, capsys: pytest.CaptureFixture[str], loop: str) -> None:
    compute = {"precision": "bf16", "micro_batch": 4 if loop == "project" else None}
    spec = {"backbone": str(network), "overrides": ["channels=4"], "batch": 8, "steps": 2, "device": "cpu"}
    backbone_worker.main([json.dumps(spec | {"loop": loop, "compute": compute})])
    found = json.loads(capsys.readouterr().out)
    assert found["ms_per_window"] > 0
    assert found["peak_mib"] > 50


@pytest.mark.slow
def test_the_benchmark_compares_both_loops(network: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench" / "backbones.json"
    backbones([str(network)], 8, 2, "cpu", ComputeConfig(), out, Console(quiet=True))
    row = json.loads(out.read_text())["rows"][0]
    assert row["backbone"] == str(network)
    assert row["bare"].keys() == row["project"].keys() == {"ms_per_window", "peak_mib"}
    with pytest.raises(ConfigError, match="unknown backbone"):
        backbones(["nope"], 8, 2, "cpu", ComputeConfig(), out, Console(quiet=True))
    network.write_text(network.read_text().replace("pool_channels: 2", "pool_channels: 9"))
    with pytest.raises(RunError, match="pools"):
        backbones([str(network)], 8, 2, "cpu", ComputeConfig(), out, Console(quiet=True))
