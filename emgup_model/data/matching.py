"""What a file must have in common with a release: gestures are matched by name, units converted by powers of ten."""

from __future__ import annotations

from collections.abc import Sequence

from emgup_model.errors import DataError

_EXPONENTS = {"V": 0, "mV": -3, "uV": -6, "µV": -6, "μV": -6, "nV": -9}  # micro sign, Greek mu
"""Volts are 10 to this power times the unit. Other units (``adc`` …) are known by their name only."""


def unit_gain(unit: str, wanted: str) -> float:
    """Factor from samples in ``unit`` to samples in ``wanted``; 1 for the same name.

    Raises:
        DataError: different units, and not both of V, mV, uV, µV and nV.
    """
    if unit == wanted:
        return 1.0
    if unit not in _EXPONENTS or wanted not in _EXPONENTS:
        raise DataError(
            f"the samples are in '{unit}', the release's in '{wanted}', and only V, mV, uV (µV) and nV can be "
            "converted; put the unit right in the recordings, or use a release for this device"
        )
    gain: float = 10.0 ** (_EXPONENTS[unit] - _EXPONENTS[wanted])
    return gain


def gesture_indices(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...]:
    """For each gesture of a file its index in ``wanted``: matched by name, in any order; some may be missing.

    Raises:
        DataError: a name that is not in ``wanted``.
    """
    at = {name: i for i, name in enumerate(wanted)}
    unknown = next((name for name in names if name not in at), None)
    if unknown is not None:
        known = ", ".join(wanted[:7]) + (", …" if len(wanted) > 7 else "")
        raise DataError(
            f"the gesture '{unknown}' is none of the release's ({known}); give it the release's name, leave its "
            "recordings and its name out, or use a release for these gestures"
        )
    return tuple(at[name] for name in names)
