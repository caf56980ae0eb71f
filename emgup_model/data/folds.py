"""Subject-disjoint folds: every user is tested exactly once, and a group of users is never split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field

from emgup_model.config import Frozen
from emgup_model.errors import ConfigError, DataError


class FoldConfig(Frozen):
    """Split of the users into folds."""

    count: int = Field(10, ge=3, description="folds; 10 gives the paper's 8:1:1 train, validation and test users")
    seed: int = Field(0, ge=0)


class Fold(Frozen):
    """One fold: three disjoint sets of users."""

    index: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def make_folds(groups: Mapping[str, str], config: FoldConfig) -> tuple[Fold, ...]:
    """Deal groups of users to folds of nearly equal size; fold k is validated on the users of fold k+1.

    Args:
        groups: user → group (people that must stay together, e.g. one person under two names).
        config: number of folds and seed.

    Raises:
        DataError: fewer groups than folds.
    """
    members: dict[str, list[str]] = {}
    for user in sorted(groups):
        members.setdefault(groups[user] or user, []).append(user)
    if len(members) < config.count:
        raise DataError(
            f"{len(members)} independent users cannot fill {config.count} folds; add users or set "
            f"folds.count={max(3, len(members))}"
        )
    order = [sorted(members)[i] for i in np.random.default_rng(config.seed).permutation(len(members))]
    order.sort(key=lambda g: -len(members[g]))  # large groups first, each to the fold with fewest users
    bins: list[list[str]] = [[] for _ in range(config.count)]
    for group in order:
        min(bins, key=len).extend(members[group])
    folds = []
    for k in range(config.count):
        test, validation = bins[k], bins[(k + 1) % config.count]
        train = [u for i, b in enumerate(bins) if i not in (k, (k + 1) % config.count) for u in b]
        folds.append(Fold(index=k, train=_sorted(train), validation=_sorted(validation), test=_sorted(test)))
    check_folds(folds)
    return tuple(folds)


def check_folds(folds: list[Fold] | tuple[Fold, ...]) -> None:
    """Raise ConfigError unless sets are disjoint within each fold and every user is tested exactly once."""
    tested = [u for f in folds for u in f.test]
    if len(tested) != len(set(tested)):
        raise ConfigError("a user is tested in two folds; delete folds.json to make the split again")
    for f in folds:
        train, validation, test = set(f.train), set(f.validation), set(f.test)
        if train & validation or train & test or validation & test:
            raise ConfigError(f"fold {f.index} uses one user for two purposes; delete folds.json to split again")
        if train | validation | test != set(tested):
            raise ConfigError(f"fold {f.index} does not cover the users that are tested; delete folds.json")


def read_folds(path: Path) -> tuple[Fold, ...]:
    """The split saved in ``folds.json``, checked. Raises ConfigError when the file is damaged."""
    try:
        folds = tuple(Fold.model_validate(f) for f in json.loads(path.read_text())["folds"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is missing or damaged; delete it to make the split again") from None
    check_folds(folds)
    return folds


def _sorted(users: list[str]) -> tuple[str, ...]:
    return tuple(sorted(users))
