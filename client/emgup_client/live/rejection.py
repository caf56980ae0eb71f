"""Below which confidence a decision is no decision."""

from __future__ import annotations

from collections.abc import Sequence

from emgup_model.errors import ConfigError

DEFAULT_SHARE = 0.05
FIXED = 0.5
"""Threshold for models whose vault entry holds no percentiles."""


def calibrated_threshold(percentiles: Sequence[float], share: float) -> float:
    """The confidence below which ``share`` of the user's own windows lay when the model was made.

    Adaptation without labels makes a model more confident than it is right, so a fixed probability means something
    else for every user; a share of the user's own windows means the same for all.

    Args:
        percentiles: 0 to 100 of the largest probability (101 values); empty = :data:`FIXED` is used.
        share: 0 rejects nothing of what was seen then.

    Raises:
        ConfigError: ``share`` is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ConfigError(f"the share to reject is at least 0 and below 1, not {share:g}")
    if not share:
        return 0.0
    if len(percentiles) != 101:
        return FIXED
    low, weight = int(100 * share), 100 * share - int(100 * share)
    return (1 - weight) * percentiles[low] + weight * percentiles[low + 1]


def rejection_threshold(percentiles: Sequence[float], share: float, fixed: float | None) -> float:
    """``fixed`` where one is given, else the calibrated one. Raises ConfigError for values out of range."""
    if fixed is None:
        return calibrated_threshold(percentiles, share)
    if not 0 <= fixed <= 1:
        raise ConfigError(f"the threshold is a probability from 0 to 1, not {fixed:g}")
    return fixed
