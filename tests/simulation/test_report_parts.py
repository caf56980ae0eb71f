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
from emgup_simulation.report.dumbbell import changes, dumbbell, floor_of
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


def test_plot_averages_runs_sorts_users_and_skips_failures():
    rows = [row("b", 0.9, 0.6, seed=0), row("b", 0.7, 0.6, seed=1), row("a", 0.9, 0.8), row("c", status="timeout")]
    assert [(c.user, c.before, round(c.after, 9)) for c in changes(rows)] == [("b", 0.6, 0.8), ("a", 0.8, 0.9)]


def test_plot_marks_the_worst_run_where_the_mean_over_runs_is_a_gain():
    rows = [row("a", 0.9, 0.6), row("a", 0.9, 0.6, seed=1), row("a", 0.4, 0.6, source_seed=3), row("b", 0.9, 0.7)]
    change, _ = users = changes(rows)
    assert (change.delta, change.worst_delta, change.worst_run) == (pytest.approx(0.4 / 3), -0.2, "3/0")
    svg = dumbbell(users, "label", floor_of(users))
    assert svg.count('<polygon points="') == svg.count('class="worse"') == 1
    assert re.findall(r'class="named"[^>]*>([^<]*)<', svg) == ["a −20.0"]
    assert "mean of 3 runs; worst run 3/0: −20.0" in svg


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), max_size=30))
def test_every_mark_is_inside_the_figure(scores):
    users = changes(
        row(str(i), after, before, seed=seed)
        for i, (before, *afters) in enumerate(scores)
        for seed, after in enumerate(afters)
    )
    svg = dumbbell(users, "label", floor_of(users), chance=0.25)
    ys = [float(y) for y in re.findall(r' c?y[12]?="(-?[\d.]+)"', svg)]
    assert all(0 <= y <= 250 for y in ys)
    assert "nan" not in svg


def test_the_axis_of_intervals_holds_zero_and_every_end():
    delta = Delta(n_users=9, n_pairs=9, n_dropped=0, mean=0.04, ci95=(-0.013, 0.091))
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
        ([0.02, 0.03, 0.025, 0.02, 0.02], "add to"),
        ([-0.02, -0.03, -0.025, -0.02, -0.02], "take away from"),
        ([-0.01, 0.01, 0.0, 0.002, 0.003], "shows no effect"),
    ],
)
def test_sentence_follows_from_the_rows(extra, verdict):
    nograd = [0.01, 0.05, 0.03, 0.07, 0.04]
    ((place, sentence),) = attribution(three([a + b for a, b in zip(nograd, extra, strict=True)], nograd, [0.0] * 5))
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
    assert "is 0.00 points over 3 users (3 (1 dropped) pairs of user and run)" in sentence
    assert "bnfrozen" not in sentence


def test_sentence_compares_the_same_runs():
    # In run 1 everybody gains 20 points less with either method; the second user's run 1 of emgup_paper failed.
    rows = [r for m in ("emgup_paper", "emgup_nograd") for s in (0, 1) for u in "ab" for r in
            [row(u, 0.9 - 0.2 * s, 0.5, method=m, seed=s)]]  # fmt: skip
    failed = next(r for r in rows if (r.method, r.user, r.seed) == ("emgup_paper", "b", 1))
    rows[rows.index(failed)] = row("b", method="emgup_paper", seed=1, status="timeout")
    ((_, sentence),) = attribution(rows)
    assert sentence.count("+35.00") == 2  # (30 + 40) / 2 for both, not 30 for the one with all of its runs
    assert (
        f"is 0.00 points over 2 users ({t.pairs(Delta(n_users=2, n_pairs=3, n_dropped=1, mean=0, ci95=None))}"
        in sentence
    )


def test_every_scenario_has_a_sentence_of_its_own():
    rows = [r.model_copy(update={"scenario": s}) for s in ("skew", "balanced") for r in three([0.1], [0.1])]
    assert [place for place, _ in attribution(rows)] == [("inductive", "balanced"), ("inductive", "skew")]


def test_attribution_leaves_out_a_run_that_one_of_the_three_lacks():
    runs = [("a", 0.9, 0.8), ("b", 0.5, 0.8)]  # b's run has no score with BatchNorm frozen
    rows = [row(u, x, method="emgup_paper") for u, x, _ in runs] + [
        row(u, y, method="emgup_nograd") for u, _, y in runs
    ]
    rows += [row("a", 0.7, method="emgup_bnfrozen"), row("b", method="emgup_bnfrozen", status="timeout")]
    ((_, sentence),) = attribution(rows)
    assert "is +10.00 points over 1 user" in sentence


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


def test_table_fits_in_the_console_whatever_the_names():
    users = ["[red]markup[/red]", "x" * 150, "手" * 60]
    rows = [row(u, 0.1, 0.9, method=m) for u in users for m in ("m" * 80, "source_only", "emgup_bnfrozen")]
    rows += [row(f"u{i}", 1.0, 0.0, method="emgup_bnfrozen") for i in range(1000)]
    shown = printed(rows)
    lines = shown.splitlines()
    assert max(cell_len(line) for line in lines) <= 100
    wide = printed(rows, 500)
    assert max(cell_len(line) for line in wide.splitlines()) <= 120
    assert "emgup_bnfrozen" in wide
    assert "…" in shown


def test_table_shows_the_numbers():
    rows = [row("a", 0.9, 0.5), row("a", 0.48, 0.5, seed=1), row("b", 0.4, 0.5), row("b", 0.8, 0.5, seed=1)]
    rows += [row("c", status="timeout", seed=s) for s in (0, 1)] + [row("a", method="source_only", seed=0)]
    shown = printed(rows, 120)
    (line,) = [x for x in shown.splitlines() if "adabn" in x]
    assert " ".join(line.split()) == "adabn 2/3 4/6 64.5 ± 6.4 64.5 60.9 +14.5 50 % 100 % −10.0 b 0/0"
    assert "cells without a score" in shown
    assert "timeout: 2" in shown
    assert "2 seeds of draw and adaptation, one source training" in shown
    assert "worst run: change, person, source seed/seed" in " ".join(shown.split())


@pytest.mark.parametrize("width", [80, 95, 112, 120])
def test_harm_can_be_read_in_a_narrow_terminal(width):
    line = next(x for x in printed([row("anna", 0.4, 0.5), row("bo", 0.9, 0.5)], width).splitlines() if "adabn" in x)
    assert " ".join(line.split()).endswith("+15.0 50 % 50 % −10.0 anna 0/0")


def test_intervals_need_five_people():
    def line(users):
        rows = [row(f"u{i}", 0.6 + 0.01 * i, 0.5) for i in range(users)]
        return next(x for x in printed(rows, 120).splitlines() if "adabn" in x)

    assert "[" not in line(4)
    assert "+12.0 [+" in line(5)


def test_runs_note_says_how_many_source_trainings_there_are():
    def note(*runs):
        rows = [row("a", source_seed=s, seed=d) for s, d in runs]
        return t.runs_note(summarise(rows).methods)

    assert note((4, 0), (4, 1), (4, 2)) == (
        "3 seeds of draw and adaptation, one source training: the spread of training new source models is not in the "
        "intervals."
    )
    assert "1 seed of draw and adaptation, one source training: the spread of drawing again and" in note((0, 0))
    assert "2 seeds of draw and adaptation, 2 source trainings: " in note((0, 0), (0, 1), (1, 0), (1, 1))


def test_a_small_share_of_harm_is_not_rounded_away():
    assert [t.share(x) for x in (0.0, 0.001, 0.006, 0.5)] == ["0 %", "<1 %", "1 %", "50 %"]


def test_table_names_the_scenario():
    lines = [line.strip() for line in printed([row("a", scenario="rest60"), row("a")]).splitlines()]
    assert [line for line in lines if line.startswith(("inductive", "·"))] == ["inductive", "inductive", "· rest60"]


def test_markup_in_names_is_text():
    assert "−80.0 [red]x[/] 0/0" in printed([row("[red]x[/]", 0.1, 0.9)], 120)


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
    assert "c (run 0/0: time\\|out)" in text
    assert "Source Only" in text


def test_markdown_compares_emgup_with_each_yardstick_in_every_table():
    gains = {"source_only": 0.0, "adabn": 0.05, "emgup": 0.1, "z": 0.2}
    rows = [row(u, 0.5 + g, 0.5, method=m, scenario=s) for u in "abcde" for m, g in gains.items() for s in SCENARIOS]
    text = to_markdown(summarise(rows))
    heads = [line for line in text.splitlines() if line.startswith("### ")]
    assert heads[:2] == ["### d, b, inductive", "### d, b, inductive · rest60"]
    assert text.count("`emgup` against each yardstick") == len(heads) == len(SCENARIOS)
    tables = text.split("against each yardstick, the same users and runs:")
    against = [line.split(" | ") for line in tables[1].splitlines() if line.startswith("| ")][2:4]
    assert [(cells[0], cells[3]) for cells in against] == [
        ("| AdaBN", "+5.0 [+5.0, +5.0]"),
        ("| `z`", "−10.0 [−10.0, −10.0]"),
    ]


def test_markdown_tells_harm_pairs_and_families():
    gains = {"source_only": 0.0, "adabn": 0.05, "emgup": 0.1}
    rows = [row(u, 0.5 + g, 0.5, method=m, seed=s) for u in "abcde" for m, g in gains.items() for s in (0, 1)]
    rows = [r for r in rows if (r.method, r.user) != ("adabn", "e")]
    rows += [row("e", 0.3, 0.5, method="adabn", seed=0), row("e", method="adabn", seed=1, status="timeout")]
    text = to_markdown(summarise(rows))
    (adabn,) = [x for x in text.splitlines() if x.startswith("| AdaBN | 5 | 9/10 |")]
    assert adabn.endswith("| 11 % | 20 % | −20.0 (e 0/0) |")
    (against,) = [x for x in text.splitlines() if x.startswith("| AdaBN | 5 | 9 (1 dropped) |")]
    assert "+10.0 [" in against
    assert "Holm family: the 2 comparisons with Source Only given here" in text
    assert "Holm family: the 1 comparison with emgup given here" in text
    assert "1 cell of adabn without a score: e (run 0/1: timeout)." in text
    assert "2 seeds of draw and adaptation, one source training" in text
    assert "Largest loss" not in text


def test_markdown_without_rows():
    assert "|" not in to_markdown(summarise([]))
