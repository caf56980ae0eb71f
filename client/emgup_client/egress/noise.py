"""Noise of local differential privacy: OpenDP's discrete Laplace on integers, from the operating system's entropy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

from emgup_client.egress.policy import EgressPolicy, LaplaceNoise
from emgup_model.errors import ConfigError


def noisy_levels(policy: EgressPolicy, levels: Mapping[str, int]) -> tuple[dict[str, int], float]:
    """(levels 0 … 2**bits - 1 with noise, clipped to that range afterwards, and the epsilon that they cost).

    Clipping what is already noisy costs nothing. No seed: an experiment's generator never comes near this. Without
    noise the levels are returned unchanged, at an epsilon of infinity.
    """
    if not isinstance(policy.noise, LaplaceNoise):
        return dict(levels), math.inf
    share = policy.noise.epsilon / len(policy.scalars)
    out, spent = {}, 0.0
    for name, scalar in policy.scalars.items():
        measure, epsilon = discrete_laplace(scalar.top, share)
        out[name] = min(scalar.top, max(0, measure(levels[name])))
        spent += epsilon
    return out, spent


def check_noise(policy: EgressPolicy) -> None:
    """Raise ConfigError unless the noise that a policy asks for can be made here."""
    if isinstance(policy.noise, LaplaceNoise):
        for scalar in policy.scalars.values():
            discrete_laplace(scalar.top, policy.noise.epsilon / len(policy.scalars))


@lru_cache(maxsize=64)
def discrete_laplace(sensitivity: int, epsilon: float) -> tuple[Callable[[int], int], float]:
    """(a mechanism that adds noise to an integer, its epsilon as OpenDP computes it for inputs that far apart).

    Raises:
        ConfigError: OpenDP is not installed, or its epsilon exceeds the one asked for by more than rounding.
    """
    try:
        import opendp.prelude as dp  # 265 MB, and of no use to a simulation: an optional dependency
    except ImportError:
        raise ConfigError("the policy asks for noise, which needs OpenDP: pip install 'emgup[privacy]'") from None
    dp.enable_features("contrib")
    space = dp.atom_domain(T="i64"), dp.absolute_distance(T="i64")
    mechanism = dp.m.make_laplace(*space, scale=sensitivity / epsilon)
    actual = float(mechanism.map(sensitivity))  # type: ignore[no-untyped-call]
    if actual > epsilon * (1 + 1e-6):
        raise ConfigError(f"noise.epsilon: {epsilon:g} for one scalar cannot be kept, the library states {actual:g}")
    return mechanism, actual
