"""Which of several methods to take, judged on users who are no test users: the rule of `emgup tune`."""

from __future__ import annotations

from collections.abc import Sequence

from emgup_model.config import Frozen
from emgup_model.evaluation.statistics import POINT
from emgup_model.evaluation.summary import Harm, MethodSummary, Summary

BALANCED = "balanced"
MAX_SHARE_EVER_WORSE = 0.05
MAX_LOSS = 0.03

RULE = (
    "Per method, protocol and scenario: mean accuracy over users (runs averaged within a user first), share of users "
    "who are worse than Source Only by more than 1 point in any of their runs, the worst single run's change. A method "
    "is admissible when with balanced data no single run is worse by more than 1 point, and with any other scenario at "
    "most 5 % of users are ever worse by more than 1 point and no single run by more than 3. Admissible methods come "
    "first, then the mean accuracy over all protocols and scenarios decides. A method with a cell that has no score is "
    "compared on other runs than the rest and comes last."
)
"""What :func:`rank` does, in words."""


class Group(Frozen):
    """One method under one protocol and scenario; scores are fractions (0.01 = one point)."""

    protocol: str
    scenario: str
    users: int
    accuracy: float
    harm: Harm

    @property
    def admissible(self) -> bool:
        """Whether no run, or outside balanced data nearly nobody's, is clearly worse."""
        if self.scenario == BALANCED:
            return self.harm.worst >= -POINT
        return self.harm.share_users_ever_worse_1pt <= MAX_SHARE_EVER_WORSE and self.harm.worst >= -MAX_LOSS


class Candidate(Frozen):
    """One method with its groups; ``complete``: every cell has a score."""

    method: str
    groups: tuple[Group, ...]
    complete: bool

    @property
    def admissible(self) -> bool:
        """Whether the method is complete and admissible in every group."""
        return self.complete and all(g.admissible for g in self.groups)

    @property
    def accuracy(self) -> float:
        """Mean over the groups of the mean accuracy; 0 without any score."""
        return sum(g.accuracy for g in self.groups) / len(self.groups) if self.groups else 0.0


def rank(summary: Summary) -> tuple[Candidate, ...]:
    """The methods of a summary, best first, by `RULE`; equal ones by name."""
    places = {(m.protocol, m.scenario) for m in summary.methods}
    names = sorted({m.method for m in summary.methods})
    candidates = [_candidate(name, [m for m in summary.methods if m.method == name], len(places)) for name in names]
    return tuple(sorted(candidates, key=lambda c: (not c.complete, not c.admissible, -c.accuracy)))


def _candidate(name: str, summaries: Sequence[MethodSummary], places: int) -> Candidate:
    groups = [
        Group(
            protocol=m.protocol,
            scenario=m.scenario,
            users=m.users,
            accuracy=m.accuracy.mean,
            harm=m.harm,
        )
        for m in summaries
        if m.accuracy is not None and m.harm is not None
    ]
    complete = len(groups) == places and not any(m.problems for m in summaries)
    return Candidate(method=name, groups=tuple(groups), complete=complete)
