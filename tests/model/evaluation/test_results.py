import contextlib
import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emgup_model.errors import RunError
from emgup_model.evaluation.results import COLUMNS, ResultRow, read_results, write_results

ROW = {
    "dataset": "myo_armband",
    "backbone": "cnn",
    "method": "adabn",
    "protocol": "inductive",
    "scenario": "rest60",
    "fold": 3,
    "user": "Female0",
    "source_seed": 2,
    "seed": 0,
    "accuracy": 0.8,
    "macro_f1": 0.75,
    "source_accuracy": 0.7,
    "source_macro_f1": 0.65,
    "n_windows": 672,
    "adapt_seconds": 1.25,
    "status": "ok",
}

printable = st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp", "Zs"], include_characters=' ,";=')
names = st.text(printable, min_size=1, max_size=12)
scores = st.floats(0, 1)


@st.composite
def result_rows(draw):
    ok = draw(st.booleans())
    score = scores if ok else st.none()
    source = scores if ok else st.one_of(st.none(), scores)
    return ResultRow(
        dataset=draw(names),
        backbone=draw(names),
        method=draw(names),
        protocol=draw(names),
        scenario=draw(names),
        fold=draw(st.integers(0, 20)),
        user=draw(names),
        source_seed=draw(st.integers(0, 2**63)),
        seed=draw(st.integers(0, 2**63)),
        accuracy=draw(score),
        macro_f1=draw(score),
        source_accuracy=draw(source),
        source_macro_f1=draw(source),
        n_windows=draw(st.integers(0, 10**9)),
        adapt_seconds=draw(st.floats(0, 1e6)),
        status="ok" if ok else draw(names.filter(lambda s: s != "ok")),
    )


def cell(row):
    return (row.dataset, row.backbone, row.method, row.protocol, row.scenario, row.user, *row.run)


@settings(max_examples=60, deadline=None)
@given(st.lists(result_rows(), max_size=8, unique_by=cell), st.randoms())
def test_round_trip_is_exact_and_order_free(tmp_path_factory, rows, random):
    folder = tmp_path_factory.mktemp("results")
    write_results(folder / "a.csv", rows)
    random.shuffle(rows)
    write_results(folder / "b.csv", rows)
    back = read_results(folder / "a.csv")
    assert sorted(back, key=repr) == sorted(rows, key=repr)
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()


def test_columns_are_the_contract(tmp_path):
    write_results(tmp_path / "results.csv", [ResultRow(**ROW)])
    header, line = (tmp_path / "results.csv").read_text().splitlines()
    assert header == (
        "dataset,backbone,method,protocol,scenario,fold,user,source_seed,seed,accuracy,macro_f1,source_accuracy,source_macro_f1,"
        "n_windows,adapt_seconds,status"
    )
    assert line == "myo_armband,cnn,adabn,inductive,rest60,3,Female0,2,0,0.8,0.75,0.7,0.65,672,1.25,ok"


def test_another_source_seed_is_another_cell(tmp_path):
    rows = [ResultRow(**ROW | {"source_seed": s, "seed": 7}) for s in (1, 0)]
    write_results(tmp_path / "results.csv", rows)
    assert [r.run for r in read_results(tmp_path / "results.csv")] == [(0, 7), (1, 7)]


def test_failed_cell_has_empty_scores(tmp_path):
    failed = ROW | dict.fromkeys(["accuracy", "macro_f1", "source_accuracy", "source_macro_f1"]) | {"status": "timeout"}
    write_results(tmp_path / "results.csv", [ResultRow(**failed)])
    assert "Female0,2,0,,,,,672" in (tmp_path / "results.csv").read_text()
    (row,) = read_results(tmp_path / "results.csv")
    assert row.accuracy is None
    assert not row.ok


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": 1.01},
        {"accuracy": float("nan")},
        {"accuracy": None},
        {"status": "failed"},
        {"user": ""},
        {"user": "a\nb"},
        {"user": "\ud800"},
        {"fold": -1},
        {"source_seed": -1},
        {"adapt_seconds": float("inf")},
        {"n_windows": -1},
        {"extra": 1},
    ],
)
def test_row_refuses(change):
    with pytest.raises(ValidationError):
        ResultRow(**ROW | change)


def written(tmp_path, *changes, header=COLUMNS):
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(header)
        for change in changes:
            writer.writerow((ROW | change).values())
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{"accuracy": "high"}], "line 2: accuracy = 'high'"),
        ([{}, {"user": "b", "fold": "1.5"}], "line 3: fold = '1.5'"),
        ([{"accuracy": ""}], "line 2: a cell with status ok needs all four scores"),
        ([{"accuracy": "nan"}], "line 2: accuracy"),
        ([{}, {"fold": 4}], "two results for one cell"),
        ([{"user": ""}], "line 2: user"),
        ([{"source_seed": ""}], "line 2: source_seed"),
    ],
)
def test_malformed_csv_is_one_clear_line(tmp_path, changes, message):
    path = written(tmp_path, *changes)
    with pytest.raises(RunError, match=message) as e:
        read_results(path)
    assert "\n" not in str(e.value)
    assert "results.csv" in str(e.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "column 'dataset' is missing"),
        (b"a,b\n", "column 'dataset' is missing"),
        ((",".join(c for c in COLUMNS if c != "scenario") + "\n").encode(), "column 'scenario' is missing"),
        ((",".join(COLUMNS) + ",note\n").encode(), "unknown column 'note'"),
        ((",".join(reversed(COLUMNS)) + "\n").encode(), "another order"),
        ((",".join(COLUMNS) + "\n1,2\n").encode(), "line 2: 2 values instead of 16"),
        ((",".join(COLUMNS) + '\n"unclosed').encode(), "not valid CSV"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_not_a_results_csv(tmp_path, text, message):
    (tmp_path / "results.csv").write_bytes(text)
    with pytest.raises(RunError, match=message):
        read_results(tmp_path / "results.csv")


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_rows_or_a_run_error(tmp_path_factory, junk):
    path = tmp_path_factory.mktemp("junk") / "results.csv"
    path.write_bytes(",".join(COLUMNS).encode() + b"\n" + junk)
    with contextlib.suppress(RunError):  # anything else is a traceback for the user
        read_results(path)


def test_missing_file(tmp_path):
    with pytest.raises(RunError, match=r"no results\.csv"):
        read_results(tmp_path / "results.csv")


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.csv"
    row = ResultRow(**ROW)
    write_results(path, [row])
    before = path.read_bytes()
    with pytest.raises(RunError, match="two results for one cell"):
        write_results(path, [row, row.model_copy(update={"fold": 9})])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]
