"""Moments are measured per user first, and drawn windows have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emgup_model.data.windows import WindowedUser
from emgup_model.signal_statistics import SignalStatistics, measure

C, W = 3, 32


def user(x: torch.Tensor) -> WindowedUser:
    """Windows (N, C, W) side by side as one recording."""
    n = len(x)
    signal = x.permute(1, 0, 2).reshape(x.shape[1], -1)
    return WindowedUser(
        signal, x.shape[2] * torch.arange(n), torch.zeros(n, dtype=torch.long), torch.arange(n), ("r",), W
    )


def noise(n: int, scale: tuple[float, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(n, C, W, generator=torch.Generator().manual_seed(seed)) * torch.tensor(scale).view(1, C, 1)


def test_drawn_windows_have_the_measured_moments() -> None:
    x = noise(400, (1.0, 2.0, 0.5))
    x[:, 1] = 0.8 * x[:, 1] + 1.2 * x[:, 0]
    x = x * torch.linspace(0.5, 2, 400).view(-1, 1, 1)
    first = measure([(user(x), np.zeros(400, int))], 1)
    drawn, gestures = first.draw(4000, W, torch.Generator().manual_seed(1))
    assert drawn.shape == (4000, C, W)
    assert gestures.tolist() == [0] * 4000
    again = measure([(user(drawn), np.zeros(4000, int))], 1)
    assert torch.allclose(again.mean, first.mean, atol=0.05)
    assert torch.allclose(again.covariance, first.covariance, atol=0.05)
    assert torch.allclose(again.correlation, first.correlation, atol=0.1)


def test_every_user_counts_the_same_whatever_the_number_of_windows() -> None:
    few, many = noise(5, (1, 1, 1)), noise(500, (4, 4, 4), seed=1)
    both = measure([(user(few), np.zeros(5, int)), (user(many), np.zeros(500, int))], 1)
    each = [measure([(user(x), np.zeros(len(x), int))], 1).mean for x in (few, many)]
    assert torch.allclose(both.mean, (each[0] + each[1]) / 2)
    assert float(both.covariance.diagonal(dim1=1, dim2=2).min()) > 0.3  # the difference between users is part of it


def test_a_gesture_that_nobody_showed_is_never_drawn() -> None:
    statistics = measure([(user(noise(20, (1, 1, 1))), np.arange(20) % 2 * 2)], 3)
    windows, gestures = statistics.draw(7, W, torch.Generator().manual_seed(0))
    assert gestures.tolist() == [0] * 7 + [2] * 7
    assert len(windows) == 14
    assert bool(torch.isfinite(windows).all())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(4, 33), st.integers(0, 99))
def test_what_is_drawn_is_finite_and_fits_for_any_size(classes: int, channels: int, window: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2 * classes, channels, window, generator=generator)
    x[0] = 0.0  # a silent window
    n = len(x)
    windows = WindowedUser(
        x.permute(1, 0, 2).reshape(channels, -1),
        window * torch.arange(n),
        torch.zeros(n, dtype=torch.long),
        torch.arange(n),
        ("r",),
        window,
    )
    statistics = measure([(windows, np.arange(n) % classes)], classes)
    assert statistics.fits(channels, classes, window)
    assert not statistics.fits(channels + 1, classes, window)
    drawn, gestures = statistics.draw(3, window, generator)
    assert drawn.shape == (len(gestures), channels, window)
    assert bool(torch.isfinite(drawn).all())


def test_statistics_come_back_from_their_tensors() -> None:
    first = measure([(user(noise(20, (1, 2, 3))), np.arange(20) % 2)], 2)
    again = SignalStatistics.from_tensors(first.tensors())
    assert all(torch.equal(a, b) for a, b in zip(first.tensors().values(), again.tensors().values(), strict=True))
    with pytest.raises(KeyError):
        SignalStatistics.from_tensors({})
