"""In what two experiments differ, as far as results go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from emgup_simulation.experiment import Experiment, resolved

NO_MATTER = ("name", "federation")
"""Parts of an experiment that change no result."""
GROWING = ("protocols", "scenarios", "seeds", "pretrain.seeds")
"""Lists without an order that may get longer: what there was stays."""
ABSENT = object()

Difference = tuple[str, Any, Any]
"""(dotted key, what it was, what it is); ABSENT where one of the two lacks it."""


def describe(difference: Difference) -> str:
    """``seeds was [0, 1], is now [0]``."""
    key, old, new = difference
    return f"{key} was {_shown(old)}, is now {_shown(new)}"


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], growth: bool = False) -> Difference | None:
    """The first key in which two resolved experiments differ as far as results go; None where they do not.

    Args:
        old, new: experiments as plain data.
        growth: whether additions in ``new``, which leave every row of ``old``, are no difference.
    """
    old, new = _normal(old), _normal(new)
    if growth and "streaming" not in old.get("protocols", ()):
        old, new = _without(old, "streaming"), _without(new, "streaming")
    return _difference(old, new, "", growth)


def _difference(old: Any, new: Any, key: str, growth: bool) -> Difference | None:
    if key in GROWING and isinstance(old, list) and isinstance(new, list):
        stays = all(value in new for value in old) and (growth or len(old) == len(new))
        return None if stays else (key, old, new)
    if growth and key == "only_folds" and _covers(old, new):
        return None
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        added = [k for k in new if k not in old and not (growth and key == "methods")]
        pairs = ((k, old.get(k, ABSENT), new.get(k, ABSENT)) for k in [*old, *added])
        found = (_difference(a, b, f"{key}.{k}" if key else k, growth) for k, a, b in pairs)
        return next((d for d in found if d is not None), None)
    return None if old == new else (key, old, new)


def _covers(old: Any, new: Any) -> bool:
    """Whether the folds of ``new`` (None = all) hold those of ``old``."""
    return new is None or (old is not None and set(old) <= set(new))


def _normal(data: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that matter, with defaults filled in where the data is of this version; the order of users is none."""
    try:
        data = resolved(Experiment.model_validate(data)).model_dump(mode="json")
    except ValidationError:  # of another version: compared as it is
        data = dict(data)
    if isinstance(users := data.get("users"), list):
        data = {**data, "users": sorted(users)}
    return {key: value for key, value in data.items() if key not in NO_MATTER}


def _without(data: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in data.items() if k != key}


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "not there"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else shown[:57] + "..."
