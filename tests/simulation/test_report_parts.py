"""The parts of the report: figures, pooled confusion matrices, the BatchNorm sentence, terminal and Markdown tables."""

import io
import json
import re
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from emgup_model.evaluation.metrics import metrics_from_confusion
from emgup_model.evaluation.protocols import Protocol
from emgup_model.evaluation.results import ResultRow
from emgup_model.evaluation.scenarios import SCENARIOS
from emgup_model.evaluation.statistics import summarise
from emgup_model.evaluation.summary import Delta
from emgup_simulation.report import collect_confusions, print_table, to_markdown
from emgup_simulation.report import text as t
from emgup_simulation.report.attribution import attribution
from emgup_simulation.report.confusions import pool
from emgup_simulation.report.dumbbell import UserChange, changes, dumbbell, floor_of
from emgup_simulation.report.forest import Axis


def row(user, accuracy=0.8, source=0.7, method="adabn", protocol="inductive", status="ok", seed=0, **more):
    scores = (accuracy, accuracy, source, source) if status == "ok" else (None,) * 4
    names = ("accuracy", "macro_f1", "source_accuracy", "source_macro_f1")
    data = {"dataset": "d", "backbone": "b", "method": method, "protocol": protocol, "fold": 0, "user": user}
    data |= {"seed": seed, "n_windows": 10, "adapt_seconds": 1.0, "status": status} | dict(
        zip(names, scores, strict=True)
    )
    return ResultRow(**data | more)


# --- numbers as text


@given(st.floats(-1, 1))
def test_points_never_shows_a_signed_zero(x):
    shown = t.points(x)
    assert not re.fullmatch(r"[+−-]0\.0", shown)
    assert float(shown.replace("−", "-")) == pytest.approx(100 * x, abs=0.051)
    assert shown[0] in "+−" or float(shown) == 0


def test_formats():
    assert t.percent(0.8456) == "84.6"
    assert t.points(-0.25) == "−25.0"
    assert t.points_interval((-0.001, 0.05)) == "[−0.1, +5.0]"
    assert t.mean_sd(0.5, None) == "50.0"
    assert [t.p_value(p) for p in (None, 0.0004, 0.0123, 0.5)] == ["–", "<0.001", "0.012", "0.50"]
    assert [t.plural(n, "user") for n in (1, 2, 1234)] == ["1 user", "2 users", "1,234 users"]
    assert t.ordered(["z", "emgup_paper", "a", "source_only", "a"], t.TITLES) == [
        "source_only",
        "emgup_paper",
        "a",
        "z",
    ]


def test_a_place_is_named_by_its_protocol_and_any_scenario_but_balanced():
    pairs = [("inductive", "short"), ("later_sessions", "skew"), ("inductive", "balanced"), ("transductive", "short")]
    assert [t.place_name(p) for p in t.places(pairs)] == [
        "transductive · short",
        "inductive",
        "inductive · short",
        "later_sessions · skew",
    ]
    assert t.meaning(("inductive", "balanced")) == t.PROTOCOLS["inductive"]
    assert t.meaning(("inductive", "short")) == f"{t.PROTOCOLS['inductive']}; {t.SCENARIOS['short']}"
    assert t.meaning(("x", "y")) == ""
    assert set(t.SCENARIOS) == set(SCENARIOS)
    assert set(t.PROTOCOLS) == set(get_args(Protocol))


# --- per-user plot


def test_worse_users_differ_in_shape_and_the_largest_losses_are_named():
    users = changes([row("better", 0.9), row("same", 0.7), row("slightly", 0.695), row("hurt", 0.4), row("bad", 0.6)])
    svg = dumbbell(users, "label", floor_of(users))
    assert svg.count("<circle") == 5 + 2  # one per user before, and after for those not worse
    assert svg.count('<polygon points="') == 3
    assert svg.count('class="worse"') == 2
    assert svg.count('class="slightly"') == 1
    named = re.findall(r'class="named"[^>]*>([^<]*)<', svg)
    assert named == ["hurt −30.0", "bad −10.0"]


def test_plot_averages_seeds_sorts_users_and_skips_failures():
    rows = [row("b", 0.9, 0.6, seed=0), row("b", 0.7, 0.6, seed=1), row("a", 0.9, 0.8), row("c", status="timeout")]
    assert [(c.user, c.before, round(c.after, 9)) for c in changes(rows)] == [("b", 0.6, 0.8), ("a", 0.8, 0.9)]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=30))
def test_every_mark_is_inside_the_figure(scores):
    users = sorted((UserChange(str(i), a, b) for i, (a, b) in enumerate(scores)), key=lambda c: c.before)
    svg = dumbbell(users, "label", floor_of(users), chance=0.25)
    ys = [float(y) for y in re.findall(r' c?y[12]?="(-?[\d.]+)"', svg)]
    assert all(0 <= y <= 250 for y in ys)
    assert "nan" not in svg


def test_the_axis_of_intervals_holds_zero_and_every_end():
    delta = Delta(n_users=9, mean=0.04, ci95=(-0.013, 0.091), share_worse=0, share_worse_1pt=0, worst=0, worst_user="a")
    axis = Axis.over([delta])
    assert axis.low <= -0.013
    assert axis.high >= 0.091
    assert min(abs(x) for x in axis.ticks) < 1e-9
    assert len(axis.ticks) <= 8
    assert 'class="mean"' in axis.row(delta)
    assert 'class="mean"' not in axis.row(None)
    assert Axis.over([]).high > 0


# --- confusion matrices


def test_pool_weighs_users_equally():
    big = np.array([[90.0, 10.0], [0.0, 100.0]])
    small = np.array([[1.0, 1.0], [0.0, 0.0]])  # never performed the second gesture
    pooled = pool([("a", big), ("b", small)])
    np.testing.assert_allclose(pooled, [[(0.9 + 0.5) / 2, (0.1 + 0.5) / 2], [0, 1]])


def test_pool_adds_the_seeds_of_a_user_and_marks_absent_gestures():
    one, two = np.array([[4.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 4.0], [0.0, 0.0]])
    pooled = pool([("a", one), ("a", two), ("b", one)])
    np.testing.assert_allclose(pooled[0], [0.75, 0.25])
    assert np.isnan(pooled[1]).all()


def evaluation(home, user, before, after, cell="k", **change):
    folder = home / "vault" / user / cell
    folder.mkdir(parents=True)
    data = {"dataset": "d", "method": "adabn", "protocol": "inductive", "scenario": "short"}
    data |= {"user": user, "seed": 0, "more": 1}
    data |= {"confusion_before": before, "confusion_after": after}
    (folder / "evaluation.json").write_text(json.dumps(data | change))


def scored(user, before, after):
    b, a = (metrics_from_confusion(np.array(m)) for m in (before, after))
    return row(user, round(a.accuracy, 6), round(b.accuracy, 6), scenario="short")


def test_collect(tmp_path):
    before, after = [[2, 1], [1, 2]], [[3, 0], [1, 2]]
    rows = [scored(u, before, after) for u in ("a", "b", "c")]
    evaluation(tmp_path, "a", before, after)
    evaluation(tmp_path, "a", before, [[0, 3], [0, 3]], cell="older settings")
    evaluation(tmp_path, "b", before, after)
    evaluation(tmp_path, "nobody", before, after)
    evaluation(tmp_path, "c", before, after, scenario="balanced")
    got = collect_confusions(tmp_path, rows)
    assert got.users == {("adabn", "inductive", "short"): 2}
    np.testing.assert_allclose(got.pooled["adabn", "inductive", "short"][1], [[1, 0], [1 / 3, 2 / 3]])
    assert got.notes == ("1 of 3 scored cells have no matching evaluation in the vault",)


def test_every_source_seed_has_a_matrix_of_its_own(tmp_path):
    before, after = [[2, 1], [1, 2]], ([[3, 0], [1, 2]], [[3, 0], [0, 3]])
    rows = [scored("a", before, m).model_copy(update={"source_seed": s}) for s, m in enumerate(after)]
    for seed, matrix in enumerate(after):
        evaluation(tmp_path, "a", before, matrix, cell=f"k{seed}", source_seed=seed)
    got = collect_confusions(tmp_path, rows)
    assert got.notes == ()
    np.testing.assert_allclose(got.pooled["adabn", "inductive", "short"][1], [[1, 0], [1 / 6, 5 / 6]])


@pytest.mark.parametrize(
    "broken",
    [
        {"confusion_after": [[1, 2]]},
        {"confusion_after": [[1, -2], [0, 1]]},
        {"confusion_after": [[1, 2, 0], [0, 1, 0], [0, 0, 1]]},
        {"confusion_before": []},
        {"confusion_before": "x"},
        {"confusion_before": [[0, 0], [0, 0]]},
        {"seed": "x"},
    ],
)
def test_broken_evaluations_are_counted(tmp_path, broken):
    evaluation(tmp_path, "a", [[1, 0], [0, 1]], [[1, 0], [0, 1]], **broken)
    got = collect_confusions(tmp_path, [row("a", 1.0, 1.0)])
    assert got.pooled == {}
    assert got.notes == ("1 evaluation files in the vault are not usable",)


def test_a_user_without_labels_is_no_broken_file(tmp_path):
    evaluation(tmp_path, "a", None, None)
    assert collect_confusions(tmp_path, [row("a", status="not_evaluated")]).notes == ()


def test_no_vault(tmp_path):
    got = collect_confusions(tmp_path / "client", [row("a")])
    assert (got.pooled, got.notes) == ({}, ())


# --- BatchNorm sentence


def three(paper, nograd, frozen=None):
    rows = []
    for method, gains in (("emgup_paper", paper), ("emgup_nograd", nograd), ("emgup_bnfrozen", frozen)):
        rows += [row(f"u{i}", 0.5 + g, 0.5, method=method) for i, g in enumerate(gains or ())]
    return rows


@pytest.mark.parametrize(
    ("extra", "verdict"),
    [
        ([0.02, 0.03, 0.025, 0.02], "add to"),
        ([-0.02, -0.03, -0.025, -0.02], "take away from"),
        ([-0.01, 0.01, 0.0, 0.002], "shows no effect"),
    ],
)
def test_sentence_follows_from_the_rows(extra, verdict):
    nograd = [0.01, 0.05, 0.03, 0.07]
    ((place, sentence),) = attribution(three([a + b for a, b in zip(nograd, extra, strict=True)], nograd, [0.0] * 4))
    assert place == ("inductive", "balanced")
    assert verdict in sentence
    assert "+4.00" in sentence  # nograd
    assert t.points(np.mean(extra) + 0.04, 2) in sentence
    assert f"emgup_paper − emgup_nograd is {t.points(np.mean(extra), 2)} [" in sentence
    assert "(emgup_bnfrozen) by 0.00 [0.00, 0.00]" in sentence


def test_sentence_compares_the_same_users():
    rows = three([0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.45])  # the fourth user has no emgup_paper
    ((_, sentence),) = attribution(rows)
    assert sentence.count("+20.00") == 2
    assert "is 0.00 [0.00, 0.00] points over 3 users" in sentence
    assert "bnfrozen" not in sentence


def test_every_scenario_has_a_sentence_of_its_own():
    rows = [r.model_copy(update={"scenario": s}) for s in ("skew", "balanced") for r in three([0.1], [0.1])]
    assert [place for place, _ in attribution(rows)] == [("inductive", "balanced"), ("inductive", "skew")]


def test_no_sentence_without_both_methods():
    assert attribution([row("a"), row("a", method="emgup_paper")]) == []
    apart = [row("a", method="emgup_paper"), row("b", method="emgup_nograd")]
    assert attribution(apart) == []
    assert attribution([]) == []


# --- terminal


def printed(rows, width=100):
    out = io.StringIO()
    print_table(rows, Console(file=out, width=width, force_terminal=False))
    return out.getvalue()


def test_table_fits_in_100_columns_whatever_the_names():
    users = ["[red]markup[/red]", "x" * 150, "手" * 60]
    rows = [row(u, 0.1, 0.9, method=m) for u in users for m in ("m" * 80, "source_only", "emgup_bnfrozen")]
    rows += [row(f"u{i}", 1.0, 0.0, method="emgup_bnfrozen") for i in range(1000)]
    shown = printed(rows)
    lines = shown.splitlines()
    assert max(cell_len(line) for line in lines) <= 100
    assert "emgup_bnfrozen" in shown
    assert "…" in shown


def test_table_shows_the_numbers():
    shown = printed(
        [row("a", 0.9, 0.5), row("b", 0.4, 0.5), row("c", status="timeout"), row("a", method="source_only")]
    )
    (line,) = [x for x in shown.splitlines() if "adabn" in x]
    assert "2/3" in line
    assert "65.0 ± 35.4" in line
    assert "+15.0 [−10.0, +40.0]" in line
    assert "50 %" in line
    assert "−10.0 b" in line
    assert "cells without a score" in shown
    assert "timeout: 1" in shown


def test_table_names_the_scenario():
    lines = [line.strip() for line in printed([row("a", scenario="rest60"), row("a")]).splitlines()]
    assert [line for line in lines if line.startswith(("inductive", "·"))] == ["inductive", "inductive", "· rest60"]


def test_markup_in_names_is_text():
    assert "−80.0 [red]x[/]" in printed([row("[red]x[/]", 0.1, 0.9)])


def test_table_of_failures():
    assert "1 cell without a score (timeout: 1)" in printed([row("a", status="timeout")])


# --- Markdown


def columns(line):
    return len(re.findall(r"(?<!\\)\|", line))


def test_markdown_keeps_its_columns():
    rows = [row("a|b<i>*_", 0.5, 0.9), row("b", method="source_only"), row("b", 0.8, method="x|y`")]
    rows += [row("c", method="emgup_paper", status="time|out")]
    text = to_markdown(summarise(rows))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({columns(line) for line in table}) == 1
    assert len(table) == 2 + 4
    assert "<i>" not in text
    assert "a\\|b&lt;i&gt;\\*\\_" in text
    assert "c (seed 0: time\\|out)" in text
    assert "Source Only" in text


def test_markdown_compares_emgup_with_each_yardstick_in_every_table():
    gains = {"source_only": 0.0, "adabn": 0.05, "emgup": 0.1, "z": 0.2}
    rows = [row(u, 0.5 + g, 0.5, method=m, scenario=s) for u in "abc" for m, g in gains.items() for s in SCENARIOS]
    text = to_markdown(summarise(rows))
    heads = [line for line in text.splitlines() if line.startswith("### ")]
    assert heads[:2] == ["### d, b, inductive", "### d, b, inductive · rest60"]
    assert text.count("`emgup` against each yardstick") == len(heads) == len(SCENARIOS)
    tables = text.split("against each yardstick, the same users:")
    against = [line.split(" | ") for line in tables[1].splitlines() if line.startswith("| ")][2:5]
    assert [(cells[0], cells[2]) for cells in against] == [
        ("| Source Only", "+10.0 [+10.0, +10.0]"),
        ("| AdaBN", "+5.0 [+5.0, +5.0]"),
        ("| `z`", "−10.0 [−10.0, −10.0]"),
    ]


def test_markdown_without_rows():
    assert "|" not in to_markdown(summarise([]))
