"""`emgup report RUN`."""

import io
import json

import pytest
from rich.console import Console

from emgup_model.errors import RunError
from emgup_model.evaluation.results import ResultRow, write_results
from emgup_simulation.report import read_run_info, write_run_info
from emgup_simulation.report_cli import report


def rows(dataset="d"):
    data = {"dataset": dataset, "backbone": "cnn", "protocol": "inductive", "fold": 0, "seed": 0, "n_windows": 4}
    scores = {"accuracy": 0.75, "macro_f1": 0.7, "source_accuracy": 0.5, "source_macro_f1": 0.5}
    return [ResultRow(**data, **scores, user=u, method="adabn", adapt_seconds=0.1, status="ok") for u in ("anna", "bo")]


def quiet():
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_results(folder / "results.csv", rows())
    return folder


def complete(run, more_folds=False):
    write_run_info(run, "emgup simulate demo", "cpu")
    (run / "experiment.yaml").write_text("name: demo\nmethods: {emgup_paper: {ssa: {learning_rate: 1.0e-7}}}\n")
    fold = {"index": 0, "train": ["x"], "validation": ["y"], "test": ["anna", "bo", "eve"]}
    other = {"index": 1, "train": ["anna"], "validation": ["bo"], "test": ["x", "y"]}
    (run / "folds.json").write_text(json.dumps({"folds": [fold, other][: 1 + more_folds]}))
    (run / "releases" / "fold_00_1").mkdir(parents=True)
    (run / "releases" / "fold_00_1" / "manifest.json").write_text(json.dumps({"gestures": ["fist", "rest"]}))
    for user in ("anna", "bo"):
        cell = run / "client" / "vault" / user / "key"
        cell.mkdir(parents=True)
        data = {"dataset": "d", "method": "adabn", "protocol": "inductive", "scenario": "balanced"}
        data |= {"user": user, "seed": 0}
        data |= {"confusion_before": [[1, 1], [1, 1]], "confusion_after": [[2, 0], [1, 1]]}
        (cell / "evaluation.json").write_text(json.dumps(data))


def test_makes_everything_from_results_csv_alone(run, tmp_path):
    console = quiet()
    report(run, tmp_path / "docs" / "table.md", console)
    shown = console.file.getvalue()
    for path in (run / "summary.json", run / "report.html", run / "results.csv", tmp_path / "docs" / "table.md"):
        assert path.is_file()
        assert str(path) in shown
    assert "adabn" in shown
    assert json.loads((run / "summary.json").read_text())["methods"][0]["users"] == 2
    assert "Which gestures" not in (run / "report.html").read_text()


def test_uses_what_the_run_left(run):
    complete(run)
    report(run, None, quiet())
    html = (run / "report.html").read_text()
    for shown in (
        "demo",
        "emgup simulate demo",
        "fist",
        "2 of 3 users",
        "learning_rate: 1.0e-7",
        "never crossed the wire",
    ):
        assert shown in html
    (absent,) = json.loads((run / "summary.json").read_text())["absent"]
    assert absent["users"] == ["eve"]  # a test user of folds.json without any row
    assert "1 user of the run: eve" in html
    assert read_run_info(run).learning_rate == 1e-7


@pytest.mark.parametrize(
    ("only", "lead", "absent"), [("[0]", "2 of 3", ["eve"]), ("null", "2 of 5", ["eve", "x", "y"])]
)
def test_users_of_folds_that_were_not_to_run_are_not_counted(run, only, lead, absent):
    complete(run, more_folds=True)
    (run / "experiment.yaml").write_text(f"name: demo\nonly_folds: {only}\n")
    report(run, None, quiet())
    assert f"{lead} users of <b>d</b> tested" in (run / "report.html").read_text()
    (found,) = json.loads((run / "summary.json").read_text())["absent"]
    assert found["users"] == absent


def test_twice_is_the_same(run):
    complete(run)
    report(run, None, quiet())
    first = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    report(run, None, quiet())
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == first


def test_two_datasets(run):
    write_results(run / "results.csv", [*rows(), *rows("e")])
    report(run, None, quiet())
    assert "drawn for runs of one dataset" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: (run / "results.csv").unlink(), r"no results\.csv"),
        (lambda run: write_results(run / "results.csv", []), "no rows yet"),
        (lambda run: (run / "results.csv").write_text("a,b\n"), "column 'dataset' is missing"),
        (lambda run: (run / "experiment.yaml").write_text("a: ["), "not valid YAML"),
        (lambda run: (run / "run.json").write_text("{"), "not valid JSON"),
        (lambda run: (run / "folds.json").write_text('{"folds": [1]}'), "does not hold folds"),
        (lambda run: (run / "folds.json").write_text("[]"), "must hold a JSON object"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, break_it, message):
    break_it(run)
    with pytest.raises(RunError, match=message) as e:
        report(run, None, quiet())
    assert "\n" not in str(e.value)
    assert not (run / "report.html").exists()
    assert not (run / "summary.json").exists()


def test_missing_folder(tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        report(tmp_path / "nowhere", None, quiet())


@pytest.mark.parametrize("as_file", [False, True])
def test_users_can_be_left_out_of_table_and_markdown_and_the_runs_own_report_stays(run, tmp_path, as_file):
    given = "bo, eve"
    if as_file:
        given = tmp_path / "users.txt"
        given.write_text("bo\n\neve\n")
    complete(run)
    report(run, None, quiet())
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}
    console = quiet()
    report(run, tmp_path / "table.md", console, str(given))
    assert {p: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    shown = console.file.getvalue()
    assert "Without 2 of 3 users: bo, eve." in shown
    assert "adabn" in shown
    assert "report.html" not in shown
    markdown = (tmp_path / "table.md").read_text()
    assert "Without 2 of 3 users: bo, eve." in markdown
    assert "| AdaBN | 1 |" in markdown


def test_a_list_of_users_may_be_longer_than_a_file_name(run):
    with pytest.raises(RunError, match="leaves no user"):
        report(run, None, quiet(), ",".join(["anna", "bo"] * 200))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "names no user"),
        (" , ", "names no user"),
        ("anna,zoe", "'zoe' is neither a user of this run nor a file"),
        ("nowhere/users.txt", "neither a user of this run nor a file"),
        ("anna,bo", "leaves no user"),
    ],
)
def test_wrong_users_to_leave_out_are_one_line(run, given, message):
    with pytest.raises(RunError, match=message) as e:
        report(run, None, quiet(), given)
    assert "\n" not in str(e.value)
    assert not (run / "summary.json").exists()


def test_a_file_of_users_that_is_no_text(run, tmp_path):
    (tmp_path / "users.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="not UTF-8"):
        report(run, None, quiet(), str(tmp_path / "users.txt"))
