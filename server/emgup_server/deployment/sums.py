"""Secure sums of a deployed run: one small file for each method, and how the cohort's sum is made."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from flwr.serverapp import Grid
from pydantic import Field

from emgup_model.config import Frozen, canonical_json
from emgup_model.files import write_atomic
from emgup_model.secure_sum_wire import MAX_COHORT
from emgup_model.wire import Status
from emgup_server.deployment.answers import Answers
from emgup_server.deployment.job import Job
from emgup_server.deployment.sum_rounds import Summed, sum_cohort

log = logging.getLogger(__name__)


class Sum(Frozen):
    """What is known of one method's results: the sum over a cohort.

    Attributes:
        state: ``complete``: nothing is left to do. ``failed``: there is no sum; the next run tries again.
        why: there is no sum, or not one of all.
        levels: sums of levels 0 … 63 by scalar of the catalogue.
        members: labels of the clients in the sum.
        floor: with fewer of the clients that took part there would have been no sum.
        remarks: by label, what was wrong with a client.
    """

    cell: str
    method: str
    state: Literal["complete", "failed"]
    why: str = ""
    levels: dict[str, int] = Field(default_factory=dict)
    members: tuple[str, ...] = ()
    floor: int = 0
    remarks: dict[str, str] = Field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.state == "complete"


class Sums:
    """Sums below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, cell: str) -> Sum | None:
        """The sum of a cell; None when there is none, or an unreadable one."""
        try:
            return Sum.model_validate_json((self.folder / f"{cell}.json").read_bytes())
        except (OSError, ValueError):
            return None

    def save(self, made: Sum) -> None:
        """Write it."""
        write_atomic(self.folder / f"{made.cell}.json", canonical_json(made) + b"\n", mode=0o600)


def sum_methods(grid: Grid, job: Job, answers: Answers, sums: Sums, labels: Mapping[int, str], poll_s: float) -> None:
    """Make the sum of every method that has none, over the clients that are online and hold a report for it.

    A sum that was made is never made again with one client more: the difference would be that client's report.
    """
    online = set(grid.get_node_ids())
    for method in job.methods:
        cell = job.cell(method)
        if (known := sums.read(cell)) is not None and known.complete:
            continue
        held = Status.HELD.name.lower()
        nodes = sorted(a.node for a in answers.all() if a.cell == cell and a.status == held and a.node in online)
        parts = [sum_cohort(grid, group, job.release_id, cell, job.round_s, poll_s) for group in groups(nodes)]
        made = _together(cell, method, parts, labels)
        sums.save(made)
        log.info("secure sum, %s: %s of %d clients %s", method, made.state, len(made.members), made.why)


def groups(nodes: Sequence[int]) -> list[list[int]]:
    """As few groups as a cohort's largest size allows, as even as can be; one, maybe empty, at least."""
    count = max(1, -(-len(nodes) // MAX_COHORT))
    return [list(nodes[i::count]) for i in range(count)]


def _together(cell: str, method: str, parts: Sequence[Summed], labels: Mapping[int, str]) -> Sum:
    good = [p for p in parts if p.levels]
    scalars = good[0].levels if good else {}
    other = [p for p in good if p.levels.keys() != scalars.keys()]
    summed = [p for p in good if p not in other]
    why = [p.why for p in parts if p.why] + ["a group's policies name other scalars"] * len(other)
    return Sum(
        cell=cell,
        method=method,
        state="complete" if summed else "failed",
        why="; ".join(dict.fromkeys(why)),
        levels={name: sum(p.levels[name] for p in summed) for name in scalars},
        members=tuple(sorted(_label(n, labels) for p in summed for n in p.members)),
        floor=min((p.floor for p in summed), default=0),
        remarks={_label(n, labels): text for p in parts for n, text in p.remarks.items()},
    )


def _label(node: int, labels: Mapping[int, str]) -> str:
    return labels.get(node, f"node-{node}")
