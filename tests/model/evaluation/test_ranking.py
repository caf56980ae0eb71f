"""The rule by which `emgup tune` ranks methods."""

from __future__ import annotations

import pytest

from emgup_model.evaluation.ranking import Candidate, rank
from emgup_model.evaluation.results import ResultRow
from emgup_model.evaluation.statistics import summarise

Changes = dict[str, float]


def rows(
    method: str, changes: Changes, scenario: str = "balanced", protocol: str = "transductive", seed: int = 0
) -> list[ResultRow]:
    """One row per user, Source Only at 50 %, the method at 50 % plus the user's change in points."""
    return [
        ResultRow(
            dataset="d",
            backbone="cnn",
            method=method,
            protocol=protocol,
            scenario=scenario,
            fold=0,
            user=user,
            seed=seed,
            accuracy=0.5 + change / 100,
            macro_f1=0.5,
            source_accuracy=0.5,
            source_macro_f1=0.5,
            n_windows=100,
            adapt_seconds=0.0,
            status="ok",
        )
        for user, change in changes.items()
    ]


def only(found: list[ResultRow]) -> Candidate:
    (candidate,) = rank(summarise(found))
    return candidate


def many(worse: int, by: float, of: int = 20) -> Changes:
    return {f"u{i:02d}": -by if i < worse else 5.0 for i in range(of)}


@pytest.mark.parametrize(
    ("scenario", "changes", "admissible"),
    [
        ("balanced", {"a": -1.0, "b": 5.0}, True),
        ("balanced", {"a": -1.1, "b": 30.0}, False),
        ("balanced", many(1, 1.1), False),
        ("rest60", many(1, 3.0), True),
        ("rest60", many(1, 3.1), False),
        ("rest60", many(2, 1.1), False),
        ("rest60", many(2, 1.0), True),
    ],
)
def test_who_may_be_made_worse_and_by_how_much(scenario: str, changes: Changes, admissible: bool) -> None:
    assert only(rows("m", changes, scenario)).admissible is admissible


def test_every_balanced_group_counts_whatever_the_protocol() -> None:
    good, bad = rows("m", {"a": 1.0}), rows("m", {"a": -2.0}, protocol="inductive")
    candidate = only([*good, *bad])
    assert not candidate.admissible
    assert [g.protocol for g in candidate.groups if not g.admissible] == ["inductive"]


def test_accuracy_is_the_mean_of_a_users_runs_and_harm_is_that_of_single_ones() -> None:
    candidate = only([*rows("m", {"a": -4.0}), *rows("m", {"a": 6.0}, seed=1)])
    (group,) = candidate.groups
    assert (group.users, group.accuracy) == (1, pytest.approx(0.51))
    assert (group.harm.share_runs_worse_1pt, group.harm.share_users_ever_worse_1pt) == (0.5, 1.0)
    assert (group.harm.worst, group.harm.worst_user, group.harm.worst_seed) == (pytest.approx(-0.04), "a", 0)
    assert not candidate.admissible


def test_people_count_and_not_runs_where_few_may_be_worse() -> None:
    # One of 20 people is worse in both runs, or two in one run each: a twentieth of the runs either way.
    one = [*rows("m", many(1, 2.0), "rest60"), *rows("m", many(1, 2.0), "rest60", seed=1)]
    two = [*rows("m", many(1, 2.0), "rest60"), *rows("m", {**many(0, 0), "u19": -2.0}, "rest60", seed=1)]
    assert [g.harm.share_runs_worse_1pt for c in (only(one), only(two)) for g in c.groups] == [0.05, 0.05]
    assert (only(one).admissible, only(two).admissible) == (True, False)


def test_admissible_ones_come_first_and_then_the_mean_over_groups_of_mean_accuracy() -> None:
    found = [
        *rows("best_but_unsafe", {"a": 40.0, "b": -2.0}),
        *rows("best_but_unsafe", {"a": 40.0, "b": 40.0}, "short"),
        *rows("good", {"a": 10.0, "b": 10.0}),
        *rows("good", {"a": 0.0}, "short"),
        *rows("good", {"b": 0.0}, "short"),
        *rows("better", {"a": 4.0, "b": 4.0}),
        *rows("better", {"a": 8.0, "b": 8.0}, "short"),
    ]
    ranked = rank(summarise(found))
    assert [c.method for c in ranked] == ["better", "good", "best_but_unsafe"]
    assert [round(c.accuracy, 3) for c in ranked] == [0.56, 0.55, 0.795]


def test_a_method_without_all_its_scores_comes_last() -> None:
    failed = rows("partial", {"b": 0.0})[0].model_copy(update={"status": "crashed", "accuracy": None, "macro_f1": None})
    found = [*rows("full", {"a": -2.0, "b": 0.0}), *rows("partial", {"a": 40.0}), failed]
    ranked = rank(summarise(found))
    assert [(c.method, c.complete, c.admissible) for c in ranked] == [("full", True, False), ("partial", False, False)]


def test_a_method_without_any_score_is_ranked_too() -> None:
    failed = [
        r.model_copy(update={"status": "crashed", "accuracy": None, "macro_f1": None}) for r in rows("m", {"a": 0})
    ]
    candidate = only(failed)
    assert (candidate.groups, candidate.accuracy, candidate.admissible) == ((), 0.0, False)
