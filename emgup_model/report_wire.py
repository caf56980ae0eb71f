"""What a deployed client may report: at most eight scalars of a fixed catalogue, six bits each. No Flower in here.

A scalar travels as one of 64 levels of the range that the catalogue gives it, whatever coarseness and noise the user's
policy chose: the server needs to know neither. Simulations send exact numbers instead (``wire.Result``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOP = 63
"""Highest level of a scalar; the lowest is 0. Six bits."""
MAX_SCALARS = 8


@dataclass(frozen=True)
class Scalar:
    """One entry of the catalogue: what a level between 0 and TOP stands for.

    Attributes:
        lower, upper: value of level 0 and of level TOP.
        meaning: for people.
        labels: whether it is computed from the user's labels; such a scalar also tells that there are labels.
    """

    lower: float
    upper: float
    meaning: str
    labels: bool = False


CATALOGUE: dict[str, Scalar] = {
    "predictions_changed": Scalar(0, 1, "share of test windows that the personalized model decides differently"),
    "confidence": Scalar(0, 1, "mean probability of the personalized model's decisions"),
    "decision": Scalar(0, 1, "how far adaptation went: 0 kept the source, 1/2 guarded, 1 personalized"),
    "windows_log2": Scalar(0, 21, "binary logarithm of the number of test windows"),
    "accuracy": Scalar(0, 1, "accuracy of the personalized model", labels=True),
    "macro_f1": Scalar(0, 1, "macro-F1 of the personalized model", labels=True),
    "source_accuracy": Scalar(0, 1, "accuracy of the source model", labels=True),
    "source_macro_f1": Scalar(0, 1, "macro-F1 of the source model", labels=True),
}
"""All that may ever be reported, in the order of the wire. Histograms and loss curves identify people: not in here."""


def check_levels(levels: Mapping[Any, Any]) -> dict[str, int]:
    """``levels`` in the order of the catalogue.

    Raises:
        ValueError: not 1 to MAX_SCALARS known names, each with an integer of 0 to TOP. The text repeats no input.
    """
    if not 1 <= len(levels) <= MAX_SCALARS:
        raise ValueError("wrong number of scalars")
    if not all(isinstance(name, str) and name in CATALOGUE for name in levels):
        raise ValueError("a scalar that is not in the catalogue")
    if not all(type(level) is int and 0 <= level <= TOP for level in levels.values()):
        raise ValueError("a level is not an integer of six bits")
    return {name: levels[name] for name in CATALOGUE if name in levels}


def fraction_of(name: str, value: float) -> float:
    """Where in the catalogue's range a value lies, clipped to [0, 1]. Raises ValueError for NaN."""
    scalar = CATALOGUE[name]
    fraction = (value - scalar.lower) / (scalar.upper - scalar.lower)
    if math.isnan(fraction):
        raise ValueError("a scalar is not a number")
    return min(1.0, max(0.0, fraction))


def value_of(name: str, level: float) -> float:
    """The value that a level, or a mean of levels, stands for."""
    scalar = CATALOGUE[name]
    return scalar.lower + (scalar.upper - scalar.lower) * level / TOP
