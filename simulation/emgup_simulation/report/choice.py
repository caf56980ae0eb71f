"""choice.md of `emgup tune`: the ranking of methods, the rule, and on whom it was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from emgup_model.config import dump_yaml
from emgup_model.evaluation.ranking import RULE, Candidate, Group, rank
from emgup_model.evaluation.results import ResultRow
from emgup_model.evaluation.statistics import accuracy_delta
from emgup_model.evaluation.summary import Summary
from emgup_simulation.experiment import Experiment
from emgup_simulation.report import text
from emgup_simulation.report.info import RunInfo
from emgup_simulation.report.made import made_lines
from emgup_simulation.report.markdown import code, escape, line, table

RANKING = ("Rank", "Method", "Admissible", "Mean accuracy, %")
GROUP = ("Method", "Users", "Runs", "Accuracy, %", "Runs worse by >1", "People ever worse by >1", "Worst run")
DECISIONS = ("Method", "Decision", "Cells", "Share", "Mean Δ accuracy")

Decided = tuple[ResultRow, str]
"""The row of a cell, and what the method decided about its user."""


def to_choice(
    experiment: Experiment, rows: Sequence[ResultRow], summary: Summary, decided: Sequence[Decided], info: RunInfo
) -> str:
    """The whole file: head, ranking, settings of the first, one table per protocol and scenario, decisions."""
    ranked = rank(summary)
    blocks = [
        f"# {escape(experiment.name)}: settings chosen on validation users",
        _verdict(ranked),
        _head(rows, info),
        _users(rows),
        f"Rule: {RULE}",
        "\n".join(table(RANKING, [_rank(i, c) for i, c in enumerate(ranked, 1)])),
    ]
    if (first := ranked[0]).admissible:
        settings = dump_yaml(experiment.methods[first.method])
        blocks.append(f"Settings of {code(first.method)}:\n\n```yaml\n{settings}```")
    blocks += _groups(ranked)
    blocks += [f"{escape(text.HARM)} {escape(text.runs_note(summary.methods))}"]
    blocks += _decisions(decided)
    return "\n\n".join(blocks) + "\n"


def _verdict(ranked: Sequence[Candidate]) -> str:
    first = ranked[0]
    if not first.admissible:
        return "Chosen: none, no method is admissible."
    return f"Chosen: **{code(first.method)}**, {text.percent(first.accuracy)} % mean accuracy."


def _head(rows: Sequence[ResultRow], info: RunInfo) -> str:
    folds = sorted({r.fold for r in rows})
    seeds, source_seeds = sorted({r.seed for r in rows}), sorted({r.source_seed for r in rows})
    lines = [
        f"- {text.plural(len({r.user for r in rows}), 'user')}, folds {_listed(folds)}",
        f"- source seeds {_listed(source_seeds)}, seeds {_listed(seeds)}",
        f"- command: {code(info.command or 'unknown')}",
        *(f"- {escape(made)}" for made in made_lines(info.made_by)),
    ]
    lines += [f"- {escape(known)}" for known in (info.date, info.device) if known]
    return "\n".join(lines) + "\n\nCommand and date are of the last start, which completed the cells."


def _users(rows: Sequence[ResultRow]) -> str:
    by_fold: dict[int, set[str]] = {}
    for row in rows:
        by_fold.setdefault(row.fold, set()).add(row.user)
    lines = [f"- fold {fold}: {', '.join(escape(u) for u in sorted(by_fold[fold]))}" for fold in sorted(by_fold)]
    return (
        "Users, each with the release of the fold: it was not trained on them, but its best epoch was chosen on them, "
        "so accuracies here are a little too high. `emgup simulate` tests them in other folds; `emgup report RUN "
        "--users-except RUN/tune/users.txt` gives the results on the untouched ones.\n\n" + "\n".join(lines)
    )


def _rank(position: int, candidate: Candidate) -> str:
    why = "yes" if candidate.admissible else f"no: {'; '.join(_objections(candidate))}"
    score = text.percent(candidate.accuracy) if candidate.groups else text.NONE
    return line([str(position), code(candidate.method), why, score])


def _objections(candidate: Candidate) -> list[str]:
    found = [] if candidate.complete else ["cells without a score"]
    for group in candidate.groups:
        if not group.admissible:
            place = text.place_name((group.protocol, group.scenario))
            found.append(f"{escape(place)} ({_ever_worse(group)} ever worse, {_worst(group)})")
    return found


def _groups(ranked: Sequence[Candidate]) -> list[str]:
    blocks = []
    for place in text.places((g.protocol, g.scenario) for c in ranked for g in c.groups):
        lines = [_group(c.method, g) for c in ranked for g in c.groups if (g.protocol, g.scenario) == place]
        blocks.append("\n".join([f"## {escape(text.place_name(place))}", "", *table(GROUP, lines)]))
    return blocks


def _group(method: str, group: Group) -> str:
    harm = group.harm
    return line(
        [
            code(method),
            str(group.users),
            str(harm.n_runs),
            text.percent(group.accuracy),
            escape(text.share(harm.share_runs_worse_1pt)),
            _ever_worse(group),
            _worst(group),
        ]
    )


def _ever_worse(group: Group) -> str:
    return escape(text.share(group.harm.share_users_ever_worse_1pt))


def _worst(group: Group) -> str:
    return f"{text.points(group.harm.worst)} {escape(text.worst_run(group.harm))}"


def _decisions(decided: Sequence[Decided]) -> list[str]:
    """Per scenario: how often each method took which decision, and what came of it, over all cells with one."""
    blocks = []
    for scenario in text.ordered((row.scenario for row, _ in decided), text.SCENARIOS):
        here = [(row, decision) for row, decision in decided if row.scenario == scenario]
        lines = [row for method in sorted({r.method for r, _ in here}) for row in _decisions_of(method, here)]
        head = f"## Decisions, {escape(scenario)} (all protocols and seeds)"
        blocks.append("\n".join([head, "", *table(DECISIONS, lines)]))
    return blocks


def _decisions_of(method: str, decided: Sequence[Decided]) -> list[str]:
    own = [(decision, accuracy_delta(row)) for row, decision in decided if row.method == method]
    lines = []
    for decision in sorted({d for d, _ in own}):
        changes = [change for d, change in own if d == decision and change is not None]
        share = f"{text.percent(len(changes) / len(own), 0)} %"
        mean = text.points(sum(changes) / len(changes))
        lines.append(line([code(method), escape(decision), str(len(changes)), share, mean]))
    return lines


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
