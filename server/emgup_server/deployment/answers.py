"""The ledger of a deployed run: one small file for each client and method, written the moment its reply was judged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from emgup_model.config import Frozen, canonical_json, digest
from emgup_model.files import write_atomic
from emgup_model.wire import Reply, Status

COMPLETE = (Status.REPORTED, Status.HELD, Status.NOT_APPLICABLE, Status.NOT_EVALUATED)
"""Statuses that asking again would not change."""


class Answer(Frozen):
    """What one client said to one method.

    Attributes:
        node: Flower's id for the client's key.
        label: the operator's name for it.
        status: the client's status code, or why there is no valid answer.
        report: levels of scalars of the catalogue, by name, as they came.
        state: ``complete``: nothing is left to do. ``failed``: it answered, or cannot. ``lost``: no answer came.
    """

    cell: str
    node: int
    label: str
    method: str
    status: str
    state: Literal["complete", "failed", "lost"]
    report: dict[str, int] | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.state == "complete"


class Answers:
    """Answers below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, cell: str, node: int, label: str, method: str, reply: Reply) -> Answer:
        """Save what a client answered. A complete answer stays as it is: duplicates change nothing."""
        state: Literal["complete", "failed"] = "complete" if reply.status in COMPLETE else "failed"
        status = reply.status.name.lower()
        fields = {"cell": cell, "node": node, "label": label, "method": method, "status": status, "state": state}
        return self._save(Answer.model_validate({**fields, "report": reply.report}))

    def record_failure(self, cell: str, node: int, label: str, method: str, why: str, lost: bool) -> Answer:
        """Save that there is no valid answer, and why."""
        state: Literal["failed", "lost"] = "lost" if lost else "failed"
        return self._save(Answer(cell=cell, node=node, label=label, method=method, status=why, state=state))

    def read(self, cell: str, node: int) -> Answer | None:
        """The answer of a client; None when there is none, or an unreadable one (which will be asked for again)."""
        return _read(self._path(cell, node))

    def all(self) -> list[Answer]:
        """Every answer, by label and method."""
        found: Iterable[Answer | None] = (_read(path) for path in self.folder.glob("*.json"))
        return sorted((a for a in found if a is not None), key=lambda a: (a.label, a.node, a.method))

    def _save(self, answer: Answer) -> Answer:
        known = self.read(answer.cell, answer.node)
        if known is not None and known.complete:
            return known
        write_atomic(self._path(answer.cell, answer.node), canonical_json(answer) + b"\n", mode=0o600)
        return answer

    def _path(self, cell: str, node: int) -> Path:
        return self.folder / f"{digest({'cell': cell, 'node': node})}.json"


def _read(path: Path) -> Answer | None:
    try:
        return Answer.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None
