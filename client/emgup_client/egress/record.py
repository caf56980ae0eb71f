"""A fresh report: the levels that the policy allows, computed from what the vault knows of a personalization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from emgup_client.egress.policy import EgressPolicy
from emgup_model.errors import EmgupError
from emgup_model.report_wire import CATALOGUE, fraction_of

DECISIONS = {"source": 0.0, "guarded": 0.5, "personalized": 1.0}


class EgressError(EmgupError):
    """Something is not allowed out. The text is fixed words of our own and never repeats what was refused."""


def build_levels(policy: EgressPolicy, evaluation: Mapping[str, Any]) -> dict[str, int]:
    """Wire levels of the policy's scalars, in the order of the catalogue, without noise: the gate adds it.

    Args:
        policy: the user's.
        evaluation: what the vault keeps about the making of a personalized model.

    Raises:
        EgressError: the vault lacks a scalar that the policy names.
    """
    levels = {}
    for name, scalar in policy.scalars.items():
        try:
            fraction = fraction_of(name, _measure(name, evaluation))
        except (KeyError, TypeError, ValueError):
            raise EgressError(f"the policy names '{name}', which this personalization did not yield") from None
        cut = min(scalar.upper, max(scalar.lower, fraction))
        level = round((cut - scalar.lower) / (scalar.upper - scalar.lower) * scalar.top)
        levels[name] = scalar.on_wire(level)
    return levels


def policy_levels(policy: EgressPolicy, on_wire: Mapping[str, int]) -> dict[str, int]:
    """Inverse of the wire's coding: levels 0 … 2**bits - 1 by name.

    Raises:
        EgressError: other scalars than the policy's, or a level that its coarseness has not.
    """
    if list(on_wire) != list(policy.scalars):
        raise EgressError("other scalars than the policy names")
    levels = {}
    for name, scalar in policy.scalars.items():
        known = {scalar.on_wire(level): level for level in range(scalar.top + 1)}
        if on_wire[name] not in known:
            raise EgressError("a scalar is finer than the policy allows")
        levels[name] = known[on_wire[name]]
    return levels


def _measure(name: str, evaluation: Mapping[str, Any]) -> float:
    if name == "decision":
        return DECISIONS[evaluation["log"].get("decision", "personalized")]
    if name == "windows_log2":
        return math.log2(max(1, evaluation["test_windows"]))
    if name == "confidence":
        return float(evaluation["mean_confidence"])
    assert name in CATALOGUE
    return float(evaluation[name])
