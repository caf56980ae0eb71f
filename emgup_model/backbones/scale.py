"""Whether recordings suit a network whose kernels are lengths of time."""

from __future__ import annotations

from emgup_model.errors import ConfigError

RATE_TOLERANCE = 0.25
"""Recordings may be faster or slower than the network is meant for by this share: kernels cover time that much off."""


def check_rate(kind: str, meant_hz: float, rate_hz: float) -> None:
    """Raise ConfigError unless the recordings' rate is near the one that the kernels are scaled for."""
    if not 1 - RATE_TOLERANCE <= rate_hz / meant_hz <= 1 + RATE_TOLERANCE:
        raise ConfigError(
            f"backbone {kind} is scaled for {meant_hz:g} Hz, the recordings have {rate_hz:g} Hz; use a backbone file "
            "for that rate, or scale its kernels and set backbone.sampling_rate_hz (docs/backbones.md)"
        )


def check_window(kind: str, needed: int, window: int) -> None:
    """Raise ConfigError unless a window holds the samples that one frame of features needs."""
    if window < needed:
        raise ConfigError(
            f"backbone {kind} needs windows of at least {needed} samples, windows.length is {window}; lengthen the "
            "windows or shorten the backbone's kernels"
        )
