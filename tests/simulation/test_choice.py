"""choice.md of `emgup tune`."""

from __future__ import annotations

from pathlib import Path

from emgup_model.evaluation.results import ResultRow
from emgup_model.evaluation.statistics import summarise
from emgup_model.provenance import Origin
from emgup_simulation.report import RunInfo
from emgup_simulation.report.choice import to_choice
from emgup_simulation.report.made import Made
from tests.toy import toy_experiment

EXPERIMENT = toy_experiment(Path("store"))
MADE = Origin(commit="0123456789ab", uncommitted=True, code="1234" * 16, torch="2.9", numpy="2.3")
INFO = RunInfo(
    command="emgup tune toy", made_by=(Made(origin=MADE, cells=3, first="2026-01-02", last="2026-01-02"),), date="today"
)


def row(method: str, user: str, change: float, scenario: str = "balanced") -> ResultRow:
    data = {"dataset": "d", "backbone": "cnn", "protocol": "inductive", "fold": int(user[1:]), "seed": 0}
    scores = {"accuracy": 0.5 + change / 100, "macro_f1": 0.5, "source_accuracy": 0.5, "source_macro_f1": 0.5}
    rest = {"n_windows": 9, "adapt_seconds": 0.0, "status": "ok", "scenario": scenario}
    return ResultRow.model_validate({**data, **scores, **rest, "method": method, "user": user})


def rows(change: float) -> list[ResultRow]:
    return [row("source_only", u, 0) for u in ("u1", "u2")] + [row("adabn", "u1", 9), row("adabn", "u2", change)]


def test_says_what_was_chosen_how_and_on_whom() -> None:
    found = rows(-1)
    shown = to_choice(EXPERIMENT, found, summarise(found), [], INFO)
    for expected in (
        "Chosen: **`adabn`**, 54.0 % mean accuracy",
        "2 users, folds 1, 2\n- source seeds 0, seeds 0",
        "`emgup tune toy`",
        "3 cells: commit 0123456789ab with uncommitted changes, code 123412341234, torch 2.9, numpy 2.3",
        "fold 1: u1",
        "--users-except RUN/tune/users.txt",
        "kind: adabn",
        "| 1 | `adabn` | yes | 54.0 |",
        "| 2 | `source_only` | yes | 50.0 |",
        "## inductive",
        "| `adabn` | 2 | 2 | 54.0 | 0 % | 0 % | −1.0 u2 0/0 |",
    ):
        assert expected in shown
    assert "Decisions" not in shown


def test_harm_is_that_of_single_runs() -> None:
    found = [*rows(9), *(r.model_copy(update={"seed": 1}) for r in rows(-5))]
    shown = to_choice(EXPERIMENT, found, summarise(found), [], INFO)
    assert "Chosen: **`source_only`**" in shown
    assert "| 2 | `adabn` | no: inductive (50 % ever worse, −5.0 u2 0/1) |" in shown
    assert "| `adabn` | 2 | 4 | 55.5 | 25 % | 50 % | −5.0 u2 0/1 |" in shown
    assert "2 seeds of draw and adaptation, one source training" in shown


def test_says_why_a_method_is_not_admissible_and_when_none_is() -> None:
    found = [r for r in rows(-2) if r.method == "adabn"]
    shown = to_choice(EXPERIMENT, found, summarise(found), [], INFO)
    assert "Chosen: none" in shown
    assert "| 1 | `adabn` | no: inductive (50 % ever worse, −2.0 u2 0/0) | 53.5 |" in shown
    assert "Settings of" not in shown


def test_counts_decisions_per_scenario_and_what_came_of_them() -> None:
    found = [*rows(-1), *(row(m, u, 0, "short") for m in ("source_only", "adabn") for u in ("u1", "u2"))]
    own = [r for r in found if r.method == "adabn"]
    decided = list(zip(own, ["personalized", "source", "source", "source"], strict=True))
    shown = to_choice(EXPERIMENT, found, summarise(found), decided, INFO)
    balanced, short = shown.split("## Decisions, ")[1:]
    assert "| `adabn` | personalized | 1 | 50 % | +9.0 |" in balanced
    assert "| `adabn` | source | 1 | 50 % | −1.0 |" in balanced
    assert "| `adabn` | source | 2 | 100 % | 0.0 |" in short
