"""A run folder and another experiment: refused or replaced, and a report that says which rows are whose."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from emgup_model.errors import RunError
from emgup_model.evaluation.results import read_results
from emgup_model.methods import load_method
from emgup_model.provenance import code_hash
from emgup_simulation import tune as tuning
from emgup_simulation.cells import expected_cells
from emgup_simulation.cli import main
from emgup_simulation.client_app import app
from emgup_simulation.differences import describe, first_difference
from emgup_simulation.experiment import Experiment
from emgup_simulation.local import LocalGrid
from emgup_simulation.prepare import prepare
from emgup_simulation.report import read_run_info
from emgup_simulation.report_cli import report
from emgup_simulation.run_config import read_replace, read_run_config
from emgup_simulation.same_run import check_same
from emgup_simulation.server_app import serve
from emgup_simulation.simulate import simulate
from emgup_simulation.tune import tune
from tests.federation import FAST, Toy, copy_of, make_toy
from tests.packages import change

ROWS = 2 * 4
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A finished run of two methods and two seeds on four users, with releases of two source seeds."""
    toy = make_toy(tmp_path_factory.mktemp("same"), seeds=[0, 1], pretrain={"seeds": [0, 1]})
    federate(toy)
    return toy


@pytest.fixture
def toy(done: Toy, tmp_path: Path) -> Toy:
    return copy_of(done, tmp_path / "run")


def federate(toy: Toy, *overrides: str, replace: bool = False) -> LocalGrid:
    run_config = {**toy.run_config, "overrides": " ".join(overrides)}
    experiment, run = read_run_config(run_config)
    grid = LocalGrid(app, 2, run_config)
    serve(grid, experiment, run, FAST, replace)
    return grid


def changed(toy: Toy, *overrides: str) -> Experiment:
    return read_run_config({**toy.run_config, "overrides": " ".join(overrides)})[0]


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")}


LOSSES = [
    ("seeds=[0]", "seeds was [0, 1], is now [0]"),
    ("seeds=[1,2]", "seeds was [0, 1], is now [1, 2]"),
    ("pretrain.seeds=[1]", "pretrain.seeds was [0, 1], is now [1]"),
    ("methods=[adabn]", "methods.source_only was "),
    ("methods.adabn.target_share=0.5", "methods.adabn.target_share was 1.0, is now 0.5"),
    ("protocols=[inductive]", 'protocols was ["transductive"], is now ["inductive"]'),
    ("scenarios=[short]", 'scenarios was ["balanced"], is now ["short"]'),
    ("only_folds=[0,1]", "only_folds was null, is now [0, 1]"),
    ("users=[u0,u1,u2]", 'users was null, is now ["u0", "u1", "u2"]'),
    ("folds.seed=1", "folds.seed was 0, is now 1"),
    ("windows.hop=20", "windows.hop was 10, is now 20"),
    ("backbone.width=4", "backbone.width was 8, is now 4"),
    ("pretrain.epochs=3", "pretrain.epochs was 24, is now 3"),
    ("compute.precision=bf16", 'compute.precision was "fp32", is now "bf16"'),
    ("store=elsewhere", "store was "),
]
GROWTH = [
    "seeds=[2,1,0]",
    "pretrain.seeds=[1,0,5]",
    "methods=[adabn,source_only,tent]",
    "protocols=[inductive,transductive]",
    "scenarios=[balanced,short]",
    "streaming.memory_s=60",
    "federation.supernodes=5",
    "federation.pretrain_processes=1",
    "name=other",
]


@pytest.mark.parametrize(("override", "message"), LOSSES)
def test_what_would_drop_rows_is_refused_by_name(done: Toy, override: str, message: str) -> None:
    with pytest.raises(RunError) as error:
        check_same(changed(done, override), done.run.path)
    assert message in str(error.value)
    assert "--replace" in str(error.value)
    assert "\n" not in str(error.value)
    check_same(changed(done, override), done.run.path, replace=True)


@pytest.mark.parametrize("override", GROWTH)
def test_growth_and_the_federation_are_no_other_experiment(done: Toy, override: str) -> None:
    check_same(changed(done, override), done.run.path)


@pytest.mark.parametrize(("folds", "refused"), [("[0,1,2]", False), ("[1,0]", False), ("null", False), ("[1,2]", True)])
def test_folds_may_be_added(done: Toy, folds: str, refused: bool) -> None:
    old, new = changed(done, "only_folds=[0,1]"), changed(done, f"only_folds={folds}")
    found = first_difference(old.model_dump(mode="json"), new.model_dump(mode="json"), growth=True)
    assert (found is not None) == refused


def test_the_stream_s_sizes_matter_where_there_is_a_stream(toy: Toy) -> None:
    streaming = changed(toy, "protocols=[streaming]")
    smaller = changed(toy, "protocols=[streaming]", "streaming.memory_s=60")
    difference = first_difference(streaming.model_dump(mode="json"), smaller.model_dump(mode="json"), growth=True)
    assert difference is not None
    assert describe(difference) == "streaming.memory_s was 140.0, is now 60.0"


def test_a_smaller_experiment_leaves_the_results_and_a_larger_one_adds_to_them(toy: Toy) -> None:
    before = contents(toy.run.path)
    rows = read_results(toy.run.results)
    assert len(rows) == 2 * 2 * ROWS
    with pytest.raises(RunError, match=r"seeds was \[0, 1\], is now \[0\]"):
        federate(toy, "seeds=[0]")
    assert contents(toy.run.path) == before

    grid = federate(toy, "seeds=[0,1,2]", "federation.supernodes=3")
    assert sum(m.metadata.message_type == "train" for m in grid.sent) == 2 * ROWS
    assert set(rows) < set(read_results(toy.run.results))


def test_replacing_rewrites_results_and_keeps_cells(toy: Toy) -> None:
    cells = contents(toy.run.cells)
    rows = read_results(toy.run.results)
    assert federate(toy, "seeds=[0]", replace=True).sent == []
    assert {r.seed for r in read_results(toy.run.results)} == {0}
    assert contents(toy.run.cells) == cells
    assert federate(toy).sent == []  # back again: nothing was lost
    assert read_results(toy.run.results) == rows


def test_every_command_refuses_and_takes_replace(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(toy.run.path)
    for command in ("simulate", "pretrain"):
        arguments = [command, toy.run_config["experiment"], "seeds=[0]", "--out", str(toy.run.path)]
        monkeypatch.setattr(sys, "argv", ["emgup", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "seeds was [0, 1], is now [0]" in line
    assert contents(toy.run.path) == before
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--replace"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert yaml.safe_load(toy.run.experiment.read_text())["seeds"] == [0]
    assert read_replace({"replace": True})
    assert not read_replace({})


def test_the_driver_tells_the_server_app_to_replace(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    class ToldError(Exception):
        pass

    def launch(run_config: dict[str, Any], **_: object) -> None:
        told.append(run_config)
        raise ToldError

    monkeypatch.setattr("emgup_simulation.simulate.launch", launch)
    with pytest.raises(ToldError):
        simulate(changed(toy, "seeds=[3]"), toy.run, Console(file=io.StringIO()), replace=True)
    assert told[0]["replace"] is True


def test_cells_without_results_are_an_experiment_too(toy: Toy) -> None:
    toy.run.results.unlink()
    with pytest.raises(RunError, match="seeds was"):
        check_same(changed(toy, "seeds=[0]"), toy.run.path)
    for cell in toy.run.cells.iterdir():
        cell.unlink()
    check_same(changed(toy, "seeds=[0]"), toy.run.path)


def test_a_tuning_of_fewer_folds_is_refused(done: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = copy_of(done, tmp_path / "run")

    def in_process(_: object, folds: tuple[int, ...], folder: tuning.TuneFolder, __: int) -> Any:
        from emgup_simulation import tune_worker

        experiment = changed(toy, f"only_folds=[{','.join(map(str, folds))}]")
        tune_worker.work(experiment, prepare(experiment, toy.run, only=folds), folder, tuning.UNDISTURBED)
        return subprocess.Popen(["true"], stdin=subprocess.PIPE)

    monkeypatch.setattr(tuning, "_start", in_process)
    console = Console(file=io.StringIO())
    assert tune(toy.experiment, toy.run, (0, 1), console) == 0
    folder = toy.run.path / "tune"
    rows, before = read_results(folder / "results.csv"), contents(folder)
    assert {(r.fold, r.source_seed) for r in rows} == {(f, s) for f in (0, 1) for s in (0, 1)}
    entries = [json.loads(path.read_text()) for path in (folder / "cells").glob("*.json")]
    releases = [{e["release_id"] for e in entries if e["row"]["source_seed"] == s} for s in (0, 1)]
    assert len(releases[0]) == len(releases[1]) == 2  # one of each fold
    assert not releases[0] & releases[1]  # each with its own source model
    with pytest.raises(RunError, match=r"only_folds was \[0, 1\], is now \[0\]"):
        tune(toy.experiment, toy.run, (0,), console)
    assert contents(folder) == before
    assert tune(toy.experiment, toy.run, (0,), console, replace_results=True) == 0
    assert {r.fold for r in read_results(folder / "results.csv")} == {0}
    assert f"code {code_hash()[:12]}" in (folder / "choice.md").read_text()


KILLED = """
import os, signal, sys
from emgup_simulation.client_app import app
from emgup_simulation.local import LocalGrid
from emgup_simulation.run_config import read_run_config
from emgup_simulation.server_app import serve
from tests.federation import FAST

def client(message, context):
    if message.metadata.message_type == "train":
        os.kill(os.getpid(), signal.SIGKILL)
    return app(message, context)

run_config = {"experiment": sys.argv[1], "overrides": "seeds=[0,1,2]", "out": sys.argv[2]}
serve(LocalGrid(client, 1, run_config), *read_run_config(run_config), FAST)
"""


def test_the_report_of_a_killed_change_says_whose_rows_it_shows(toy: Toy) -> None:
    rows = toy.run.results.read_bytes()
    command = [sys.executable, "-c", KILLED, toy.run_config["experiment"], str(toy.run.path)]
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert yaml.safe_load(toy.run.experiment.read_text())["seeds"] == [0, 1, 2]
    assert toy.run.results.read_bytes() == rows

    out, markdown = io.StringIO(), toy.run.path / "table.md"
    report(toy.run.path, markdown, Console(file=out, width=100))
    line = "results.csv was made by another configuration than experiment.yaml says: seeds was [0, 1], is now [0, 1, 2]"
    assert [text.startswith(line) for text in out.getvalue().splitlines()].count(True) == 1
    html = toy.run.report.read_text()
    assert "made by another configuration than experiment.yaml" in html
    shown = html.partition("<pre>")[2].partition("</pre>")[0]
    assert yaml.safe_load(shown.replace("&#34;", '"').replace("&#39;", "'"))["seeds"] == [0, 1]
    assert "another configuration" in markdown.read_text()

    federate(toy, "seeds=[0,1,2]")
    report(toy.run.path, markdown, Console(file=out, width=100))
    assert "another configuration" not in toy.run.report.read_text() + markdown.read_text()


def test_a_kill_between_note_and_results_leaves_no_doubt(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr("emgup_simulation.finish.write_results", killed)
        with pytest.raises(KeyboardInterrupt):
            federate(toy, "seeds=[0,1,2]")
    info = read_run_info(toy.run.path, read_results(toy.run.results))
    assert info.unsure is not None
    assert "seeds was [0, 1], is now [0, 1, 2]" in info.unsure
    assert sum(m.cells for m in info.made_by) == 2 * 2 * ROWS


def test_results_of_unknown_making_are_called_so(toy: Toy) -> None:
    known = json.loads((toy.run.path / "run.json").read_text())
    (toy.run.path / "run.json").write_text(json.dumps({**known, "results": []}))
    info = read_run_info(toy.run.path, read_results(toy.run.results))
    assert info.unsure == "nothing in run.json says which configuration made results.csv; run the experiment again"
    assert info.made_by == ()


def test_run_json_and_report_list_every_code_with_its_cells(toy: Toy, package: Path) -> None:
    """Another code in between: the seed that is new is made by it, and so are the others, whose keys it changed."""
    old = code_hash()
    experiment = changed(toy)
    change(package / "methods" / "adabn.py", "", "\nchanged = 1\n")
    cells = expected_cells(experiment, prepare(experiment, toy.run))
    assert not {c.key for c in cells} & {p.stem for p in toy.run.cells.iterdir()}
    federate(toy)
    (made,) = read_run_info(toy.run.path, read_results(toy.run.results)).made_by
    assert (made.origin.code, made.cells) == (code_hash(), 2 * 2 * ROWS)
    assert made.origin.code != old


def test_two_commits_are_two_lines(toy: Toy) -> None:
    entries = sorted(toy.run.cells.glob("*.json"))
    for path in entries[:3]:
        entry = json.loads(path.read_text())
        entry["origin"] |= {"commit": "0123456789ab", "uncommitted": True, "torch": "2.10.0"}
        path.write_text(json.dumps(entry))
    federate(toy)
    markdown = toy.run.path / "table.md"
    report(toy.run.path, markdown, Console(file=io.StringIO(), width=100))
    noted = json.loads((toy.run.path / "run.json").read_text())["results"][0]["made_by"]
    assert [m["cells"] for m in noted] == [2 * 2 * ROWS - 3, 3]
    for shown in (toy.run.report.read_text(), markdown.read_text()):
        assert "3 cells: commit 0123456789ab with uncommitted changes, code" in shown
        assert f"{2 * 2 * ROWS - 3} cells: " in shown
        assert "torch 2.10.0" in shown


def test_a_variant_that_extends_a_method_is_compared_as_it_is_resolved() -> None:
    config = load_method("adabn").model_dump(mode="json")
    old, new = {"methods": {"a": config}}, {"methods": {"a": config, "b": config}}
    assert first_difference(old, new, growth=True) is None
    assert first_difference(new, old, growth=True) is not None
    assert first_difference(old, new) is not None
