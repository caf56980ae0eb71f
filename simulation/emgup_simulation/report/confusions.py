"""Confusion matrices from the simulated clients' private vaults on this machine. They never crossed the wire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emgup_model.evaluation.results import ResultRow

Matrix = NDArray[np.float64]
Key = tuple[str, str, str]
"""(method, protocol, scenario)"""
Confusions = Mapping[Key, tuple[Matrix, Matrix]]
"""Before and after, each (C, C): row = true gesture, every row a distribution over predictions.

Pooled over users with equal weight; a row is NaN where no user has a test window of that gesture.
"""

AGREES = 2e-6
"""Accuracies travel in steps of 1e-6; a matrix this close to a row's accuracy is the one the row came from."""


Counts = Annotated[list[list[int]], Field(min_length=1)]


class _Evaluation(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    dataset: str
    method: str
    protocol: str
    scenario: str
    user: str
    source_seed: int = 0
    seed: int
    confusion_before: Counts | None = None  # a user without labels has a personalized model and no scores
    confusion_after: Counts | None = None


@dataclass(frozen=True)
class CollectedConfusions:
    """Pooled matrices, the number of users in each, and what could not be used (one line each)."""

    pooled: Confusions
    users: Mapping[Key, int]
    notes: tuple[str, ...]


def collect_confusions(client_home: Path, rows: Sequence[ResultRow]) -> CollectedConfusions:
    """Read ``client_home``/vault/<user>/<cell>/evaluation.json and pool the matrices of the cells in ``rows``.

    A vault can also hold cells of earlier settings: an evaluation is used only if its cell is in ``rows``, scored, and
    its accuracies are those of the row. Nothing else is left out silently: the notes say what was not usable.
    """
    wanted = {(r.dataset, r.method, r.protocol, r.scenario, r.user, *r.run): r for r in rows if r.ok}
    found: dict[tuple[str, str, str, str, str, int, int], tuple[Matrix, Matrix]] = {}
    broken = 0
    for evaluation in _evaluations(client_home / "vault"):
        if evaluation is None:
            broken += 1
            continue
        if evaluation.confusion_before is None or evaluation.confusion_after is None:
            continue
        e = evaluation
        key = (e.dataset, e.method, e.protocol, e.scenario, e.user, e.source_seed, e.seed)
        before, after = (_square(m) for m in (evaluation.confusion_before, evaluation.confusion_after))
        if before is None or after is None or before.shape != after.shape:
            broken += 1
        elif key in wanted and _agrees(before, after, wanted[key]):
            found[key] = (before, after)
    notes = []
    if broken:
        notes.append(f"{broken} evaluation files in the vault are not usable")
    if found and len(found) < len(wanted):
        notes.append(
            f"{len(wanted) - len(found)} of {len(wanted)} scored cells have no matching evaluation in the vault"
        )
    sizes = {before.shape for before, _ in found.values()}
    if len(sizes) > 1:
        return CollectedConfusions({}, {}, (*notes, "the vault's matrices have different numbers of gestures"))
    pooled, users = {}, {}
    for place in sorted({k[1:4] for k in found}):
        here = [(k[4], m) for k, m in found.items() if k[1:4] == place]
        pooled[place] = (pool((user, m[0]) for user, m in here), pool((user, m[1]) for user, m in here))
        users[place] = len({user for user, _ in here})
    return CollectedConfusions(pooled, users, tuple(notes))


def pool(matrices: Iterable[tuple[str, Matrix]]) -> Matrix:
    """Mean over users of their row-normalised matrices.

    Args:
        matrices: (user, (C, C) counts) pairs; matrices of one user (seeds) are added first.

    Returns:
        (C, C); each row is averaged over the users that have the gesture, NaN where none has.
    """
    users: dict[str, Matrix] = {}
    for user, counts in matrices:
        users[user] = users[user] + counts if user in users else counts
    stack = np.stack([users[u] for u in sorted(users)])
    totals = stack.sum(axis=2, keepdims=True)
    shares = np.divide(stack, totals, out=np.zeros_like(stack), where=totals > 0)
    have = (totals > 0).sum(axis=0)
    pooled = np.full(shares.shape[1:], np.nan)
    np.divide(shares.sum(axis=0), have, out=pooled, where=have > 0)
    return pooled


def _evaluations(vault: Path) -> Iterator[_Evaluation | None]:
    for path in sorted(vault.glob("*/*/evaluation.json")):
        try:
            yield _Evaluation.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            yield None


def _square(values: list[list[int]]) -> Matrix | None:
    if any(len(row) != len(values) for row in values):
        return None
    matrix = np.array(values, dtype=np.float64)
    return matrix if (matrix >= 0).all() and matrix.sum() > 0 else None


def _agrees(before: Matrix, after: Matrix, row: ResultRow) -> bool:
    pairs = ((before, row.source_accuracy), (after, row.accuracy))
    return all(a is not None and abs(float(np.trace(m) / m.sum()) - a) <= AGREES for m, a in pairs)
