import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from emgup_model.evaluation.inference import holm, mean_interval
from emgup_model.evaluation.results import ResultRow
from emgup_model.evaluation.statistics import POINT, summarise
from emgup_model.evaluation.summary import write_summary


def row(user, accuracy, source=0.5, method="adabn", seed=0, protocol="inductive", status="ok", **more):
    ok = status == "ok"
    data = {
        "dataset": "d",
        "backbone": "b",
        "method": method,
        "protocol": protocol,
        "fold": 0,
        "user": user,
        "seed": seed,
        "accuracy": accuracy if ok else None,
        "macro_f1": accuracy / 2 if ok else None,
        "source_accuracy": source if ok else None,
        "source_macro_f1": source / 2 if ok else None,
        "n_windows": 100,
        "adapt_seconds": 1.0,
        "status": status,
    }
    return ResultRow(**data | more)


def only(rows, **where):
    (found,) = [m for m in summarise(rows).methods if all(getattr(m, k) == v for k, v in where.items())]
    return found


def test_a_mean_of_equal_changes_is_that_change_and_an_interval_ends_at_what_a_change_can_be():
    m = only([row(f"u{i}", 0.7, 0.0) for i in range(6)])  # in floating point their mean is above 0.7
    assert m.delta_accuracy.mean == m.accuracy.mean == 0.7
    for method, accuracy, source in (("falls", 0.0, 1.0), ("rises", 1.0, 0.0)):
        rows = [row(f"u{i}", accuracy, source, method) for i in range(6)] + [row("u6", 0.4, 0.4, method)]
        low, high = only(rows).delta_accuracy.ci95
        assert (low == -1) == (method == "falls")
        assert (high == 1) == (method == "rises")


def test_by_hand():
    rows = [row("a", 0.9, 0.5), row("b", 0.6, 0.5), row("c", 0.3, 0.5), row("d", 0.495, 0.5)]
    m = only(rows)
    x = np.array([0.9, 0.6, 0.3, 0.495])
    assert m.accuracy.mean == pytest.approx(x.mean())
    assert m.accuracy.sd == pytest.approx(np.std(x, ddof=1))
    assert m.accuracy.p10 == pytest.approx(np.percentile(x, 10))
    assert (m.accuracy.worst, m.accuracy.worst_user) == (0.3, "c")
    d = m.delta_accuracy
    assert d.mean == pytest.approx((0.4 + 0.1 - 0.2 - 0.005) / 4)
    assert (d.n_users, d.n_pairs, d.n_dropped) == (4, 4, 0)
    h = m.harm
    assert (h.share_runs_worse_1pt, h.share_users_ever_worse_1pt) == (0.25, 0.25)  # d loses half a point
    assert (h.worst, h.worst_user) == (pytest.approx(-0.2), "c")
    assert d.wilcoxon_p == pytest.approx(stats.wilcoxon(x - 0.5).pvalue)
    assert m.delta_macro_f1.mean == pytest.approx(d.mean / 2)
    assert m.macro_f1.mean == pytest.approx(x.mean() / 2)
    assert m.users == m.users_expected == 4


def test_seeds_are_averaged_within_a_user_first():
    # User a has three seeds and user b one; weighting cells instead of users would give 0.65.
    rows = [row("a", 0.8, seed=s) for s in range(3)] + [row("b", 0.2)]
    m = only(rows)
    assert m.accuracy.mean == pytest.approx(0.5)
    assert m.users == 2
    assert [(p.user, p.seed, p.status) for p in m.problems] == [("b", 1, "missing"), ("b", 2, "missing")]
    assert m.users_without_score == ()
    assert (m.runs, m.runs_expected) == (4, 6)


def test_a_users_runs_are_averaged_not_their_median_taken():
    m = only([row("a", accuracy, seed=s) for s, accuracy in enumerate((0.2, 0.8, 0.8))])
    assert m.accuracy.mean == m.accuracy.worst == pytest.approx(0.6)
    assert m.macro_f1.mean == pytest.approx(0.3)
    assert m.delta_accuracy.mean == pytest.approx(0.1)


def test_harm_is_counted_in_runs_and_a_mean_over_seeds_cannot_hide_it():
    changes = {"a": (0.2, -0.05, 0.2), "b": (-0.011, 0.0, 0.1), "c": (-0.01, 0.1, 0.1), "d": (0.3, 0.3, 0.3)}
    rows = [row(u, 0.5 + c, seed=s, source_seed=7) for u, own in changes.items() for s, c in enumerate(own)]
    m = only(rows)
    assert m.delta_accuracy.mean > 0.1
    h = m.harm
    assert (h.n_runs, h.n_users) == (12, 4)
    assert (h.share_runs_worse_1pt, h.share_users_ever_worse_1pt) == (2 / 12, 2 / 4)  # exactly a point is not more
    assert (h.worst, h.worst_user, h.worst_source_seed, h.worst_seed) == (pytest.approx(-0.05), "a", 7, 1)


def test_harm_without_a_loss_names_the_smallest_gain():
    h = only([row("a", 0.6), row("b", 0.51)]).harm
    assert (h.share_runs_worse_1pt, h.worst, h.worst_user) == (0, pytest.approx(0.01), "b")


def test_source_seeds_are_runs_of_their_own():
    rows = [row("a", 0.4, seed=0, source_seed=0), row("a", 0.8, seed=0, source_seed=1), row("b", 0.9)]
    m = only(rows)
    assert (m.accuracy.mean, m.runs, m.source_seeds, m.seeds) == (pytest.approx(0.75), 3, (0, 1), (0,))
    assert [(p.user, p.source_seed, p.seed) for p in m.problems] == [("b", 1, 0)]


def test_delta_uses_the_rows_own_source_and_folds_play_no_role():
    rows = [row("a", 0.8, 0.7, fold=0), row("b", 0.8, 0.9, fold=1), row("c", 0.8, 0.9, fold=1)]
    assert only(rows).delta_accuracy.mean == pytest.approx((0.1 - 0.1 - 0.1) / 3)


def test_failed_and_missing_users_are_named():
    rows = [
        row("a", 0.9, method="source_only"),
        row("b", 0.7, method="source_only"),
        row("c", 0.7, method="source_only"),
        row("a", 0.9),
        row("b", 0, status="client_error"),
    ]
    m = only(rows, method="adabn")
    assert (m.users, m.users_expected) == (1, 3)
    assert m.users_without_score == ("b", "c")
    assert [(p.user, p.status) for p in m.problems] == [("b", "client_error"), ("c", "missing")]
    assert m.accuracy.mean == 0.9
    assert m.accuracy.sd is None
    assert m.accuracy.ci95 is None


def test_a_method_whose_users_all_failed_has_no_numbers():
    m = only([row("a", 0, status="timeout"), row("b", 0, status="timeout")])
    assert (m.users, m.users_expected) == (0, 2)
    assert m.accuracy is m.delta_accuracy is m.delta_macro_f1 is m.adapt_seconds_mean is None


def test_a_run_that_a_method_lacks_altogether_is_missing():
    rows = [row("a", 0.5, method=m, seed=s) for m, s in (("adabn", 0), ("shot", 0), ("shot", 1))]
    assert [(p.user, p.seed, p.status) for p in only(rows, method="adabn").problems] == [("a", 1, "missing")]


def test_users_a_protocol_does_not_apply_to_are_absent_not_missing():
    rows = [row("a", 0.5), row("b", 0.5), row("a", 0.5, protocol="later_sessions")]
    s = summarise(rows, users=["a", "b", "z"])
    assert [(x.protocol, x.users) for x in s.absent] == [("inductive", ("z",)), ("later_sessions", ("b", "z"))]
    assert only(rows, protocol="later_sessions").problems == ()


def test_no_rows():
    assert summarise([]).methods == ()


def test_source_only_is_no_part_of_the_holm_family():
    rng = np.random.default_rng(0)
    users = [f"u{i}" for i in range(12)]
    rows = []
    for method, gain in (("source_only", 0.0), ("adabn", 0.1), ("emgup_paper", 0.02)):
        rows += [row(u, 0.5 + gain + (gain and rng.normal(0, 0.05)), method=method) for u in users]
    s = summarise(rows)
    by = {m.method: m.delta_accuracy for m in s.methods}
    assert by["source_only"].wilcoxon_p is by["source_only"].wilcoxon_p_holm is None
    assert by["source_only"].mean == 0
    smaller, larger = sorted((by["adabn"], by["emgup_paper"]), key=lambda d: d.wilcoxon_p)
    assert smaller.wilcoxon_p_holm == pytest.approx(min(1, 2 * smaller.wilcoxon_p))
    assert larger.wilcoxon_p_holm == pytest.approx(max(larger.wilcoxon_p, smaller.wilcoxon_p_holm))
    (against_adabn,) = s.comparisons
    assert (against_adabn.method, against_adabn.reference) == ("emgup_paper", "adabn")
    assert against_adabn.delta_accuracy.mean == pytest.approx(by["emgup_paper"].mean - by["adabn"].mean)


def test_comparison_uses_the_users_both_have():
    rows = [row("a", 0.9), row("b", 0.1), row("b", 0.3, method="other"), row("c", 0.9, method="other")]
    (c,) = summarise(rows).comparisons
    assert (c.method, c.delta_accuracy.n_users) == ("other", 1)
    assert (c.delta_accuracy.n_pairs, c.delta_accuracy.n_dropped) == (1, 2)
    assert c.delta_accuracy.mean == pytest.approx(0.2)


def test_a_failed_cell_drops_its_run_from_both_sides():
    # Runs 1 are 30 points harder for everybody; `other` is 10 points better in every run, one of which failed.
    rows = [row(u, 0.8 - 0.3 * s, seed=s) for u in "ab" for s in (0, 1)]
    rows += [row(u, 0.9 - 0.3 * s, seed=s, method="other") for u in "ab" for s in (0, 1)]
    rows = [r for r in rows if (r.method, r.user, r.seed) != ("other", "b", 1)]
    rows.append(row("b", 0, seed=1, method="other", status="timeout"))
    (c,) = summarise(rows).comparisons
    assert c.delta_accuracy.mean == pytest.approx(0.1)  # 0.175 if each side is averaged on its own
    assert c.delta_macro_f1.mean == pytest.approx(0.05)
    assert (c.delta_accuracy.n_users, c.delta_accuracy.n_pairs, c.delta_accuracy.n_dropped) == (2, 3, 1)
    own = only(rows, method="other")
    assert (own.runs, own.runs_expected, own.delta_accuracy.n_pairs, own.delta_accuracy.n_dropped) == (3, 4, 3, 1)


def test_runs_are_paired_by_both_seeds():
    rows = [row("a", 0.5, source_seed=0, seed=1), row("a", 0.9, source_seed=1, seed=0)]
    rows += [row("a", 0.6, source_seed=0, seed=1, method="other"), row("a", 0.1, source_seed=0, seed=0, method="other")]
    (c,) = summarise(rows).comparisons
    assert (c.delta_accuracy.mean, c.delta_accuracy.n_pairs) == (pytest.approx(0.1), 1)


def test_datasets_and_backbones_are_not_mixed():
    rows = [row("a", 0.2), row("a", 0.4, dataset="e"), row("a", 0.6, backbone="c")]
    assert {(m.dataset, m.backbone): m.accuracy.mean for m in summarise(rows).methods} == {
        ("d", "b"): 0.2,
        ("e", "b"): 0.4,
        ("d", "c"): 0.6,
    }


def test_scenarios_are_not_mixed():
    rows = [row("a", 0.2), row("a", 0.4, scenario="rest60"), row("b", 0.6, scenario="rest60")]
    s = summarise(rows)
    assert {(m.protocol, m.scenario): m.accuracy.mean for m in s.methods} == {
        ("inductive", "balanced"): 0.2,
        ("inductive", "rest60"): pytest.approx(0.5),
    }
    assert [(x.scenario, x.users) for x in s.absent] == [("balanced", ("b",))]


def contest(users=8, methods=("source_only", "adabn", "shot")):
    rng = np.random.default_rng(1)
    scores = {m: 0.7 + rng.normal(0, 0.05, users) for m in methods}
    scores["emgup"] = scores.get("adabn", 0.7) + np.full(users, 0.1)
    return scores, [row(f"u{i}", a, method=m) for m, x in scores.items() for i, a in enumerate(x)]


def test_emgup_is_compared_with_every_yardstick_in_both_scores():
    scores, rows = contest()
    against = [c for c in summarise(rows).comparisons if c.family == "emgup"]
    assert [(c.method, c.reference) for c in against] == [("emgup", m) for m in ("adabn", "shot")]
    p = [stats.wilcoxon(np.round(scores["emgup"] - scores[c.reference], 12)).pvalue for c in against]
    for c, corrected in zip(against, holm(p), strict=True):
        difference = scores["emgup"] - scores[c.reference]
        assert c.delta_accuracy.n_users == 8
        assert c.delta_accuracy.mean == pytest.approx(difference.mean())
        assert c.delta_macro_f1.mean == pytest.approx(difference.mean() / 2)
        assert c.delta_accuracy.ci95 == pytest.approx(mean_interval(np.round(difference, 12)))
        assert c.delta_accuracy.wilcoxon_p_holm == c.delta_macro_f1.wilcoxon_p_holm == pytest.approx(corrected)
    assert against[0].delta_accuracy.wilcoxon_p == pytest.approx(2 / 2**8)


@pytest.mark.parametrize("without", [(), ("emgup",), ("source_only",), ("adabn", "emgup_nograd")])
def test_two_methods_are_compared_in_one_family_only(without):
    names = {"source_only", "adabn", "shot", "emgup", "emgup_paper", "emgup_nograd", "emgup_bnfrozen"} - set(without)
    found = [(c.method, c.reference) for c in summarise(contest(methods=tuple(names))[1]).comparisons]
    assert len({frozenset(pair) for pair in found}) == len(found) > 0
    assert not [pair for pair in found if "source_only" in pair]  # those are the methods' own differences
    assert not [pair for pair in found if pair[0] == pair[1]]


def test_without_emgup_nothing_is_compared_with_it():
    _, rows = contest()
    assert {c.family for c in summarise(r for r in rows if r.method != "emgup").comparisons} == {"adabn"}


windows = st.integers(0, 40)


@st.composite
def cohorts(draw, methods=("adabn",)):
    """Cells of up to 8 users, 2 source seeds and 2 seeds; some failed, some missing."""
    users = draw(st.lists(st.text("abcde", min_size=1, max_size=3), min_size=1, max_size=8, unique=True))
    rows = []
    for user in users:
        for source_seed in range(draw(st.integers(1, 2))):
            source = draw(windows) / 40
            for method in methods:
                for seed in range(draw(st.integers(1, 2))):
                    status = draw(st.sampled_from(["ok", "ok", "ok", "timeout"]))
                    more = {"source_seed": source_seed, "seed": seed, "status": status}
                    rows.append(row(user, draw(windows) / 40, source, method=method, **more))
    return rows


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.randoms())
def test_properties(rows, random):
    before = summarise(rows)
    random.shuffle(rows)
    assert summarise(rows) == before  # neither order nor chance changes a number
    (m,) = before.methods
    assert m.users + len(m.users_without_score) == m.users_expected == len({r.user for r in rows})
    assert m.runs + len(m.problems) == m.runs_expected
    assert len([p for p in m.problems if p.status != "missing"]) == sum(not r.ok for r in rows)
    if m.accuracy is None:
        assert m.users == 0
        return
    s, d, h = m.accuracy, m.delta_accuracy, m.harm
    assert s.worst <= s.p10 <= 1
    assert s.worst <= s.mean
    assert (s.ci95 is None) == (d.ci95 is None) == (m.users < 5)
    if s.ci95:
        assert 0 <= s.ci95[0] <= s.mean <= s.ci95[1] <= 1
        assert -1 <= d.ci95[0] <= d.mean <= d.ci95[1] <= 1
    assert (d.n_users, d.n_pairs, d.n_dropped) == (m.users, m.runs, m.runs_expected - m.runs)
    assert d.mean == pytest.approx(s.mean - m.source_accuracy.mean, abs=1e-9)
    assert 0 <= d.wilcoxon_p <= d.wilcoxon_p_holm <= 1
    assert (h.n_runs, h.n_users) == (m.runs, m.users)
    assert (h.share_runs_worse_1pt > 0) == (h.share_users_ever_worse_1pt > 0) == (h.worst < -POINT)
    assert h.worst <= d.mean + 1e-9


@settings(max_examples=60, deadline=None)
@given(cohorts(methods=("adabn", "other")), st.data())
def test_pairing_properties(rows, data):
    """A difference is over the cells that both have: what the other side lacks has no say in it."""
    ok = {m: {(r.user, r.run): r.accuracy for r in rows if r.method == m and r.ok} for m in ("adabn", "other")}
    both = ok["adabn"].keys() & ok["other"].keys()
    expected = len({r.user for r in rows}) * len({r.run for r in rows})
    comparisons = summarise(rows).comparisons
    if not both:
        assert comparisons == ()
        return
    (c,) = comparisons
    d = c.delta_accuracy
    assert (d.n_pairs, d.n_users, d.n_dropped) == (len(both), len({u for u, _ in both}), expected - len(both))
    of_user = {u: [ok["other"][p] - ok["adabn"][p] for p in both if p[0] == u] for u, _ in both}
    assert d.mean == pytest.approx(np.mean([np.mean(x) for x in of_user.values()]), abs=1e-9)
    changed = [  # scores of cells without a counterpart
        r if not r.ok or (r.user, r.run) in both else r.model_copy(update={"accuracy": data.draw(windows) / 40})
        for r in rows
    ]
    assert summarise(changed).comparisons == comparisons


def test_rounding_does_not_make_a_user_worse():
    # 0.1 + 0.2 is 0.30000000000000004: a user with the same windows right is not worse by 5e-17.
    h = only([row("a", 0.3, 0.1 + 0.2), row("b", 0.5)]).harm
    assert (h.worst, h.worst_user) == (0, "a")
    assert only([row("a", 0.29, 0.3)]).harm.share_runs_worse_1pt == 0


def test_summary_json(tmp_path):
    s = summarise([row("a", 0.9), row("b", 0, status="timeout")])
    write_summary(tmp_path / "summary.json", s)
    data = json.loads((tmp_path / "summary.json").read_text())
    assert data["format"] == "emgup-summary"
    assert data["methods"][0]["problems"] == [{"user": "b", "source_seed": 0, "seed": 0, "status": "timeout"}]
    assert data["methods"][0]["harm"]["share_users_ever_worse_1pt"] == 0
    assert type(s).model_validate(data) == s
