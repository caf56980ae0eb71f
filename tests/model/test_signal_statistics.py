"""Moments are measured per user first, and drawn windows have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emgup_model.data.windows import WindowedUser
from emgup_model.signal_statistics import FEWEST_PEOPLE, SignalStatistics, measure, moment_shapes

C, W = 3, 32


def user(x: torch.Tensor) -> WindowedUser:
    """Windows (N, C, W) side by side as one recording."""
    n = len(x)
    signal = x.permute(1, 0, 2).reshape(x.shape[1], -1)
    return WindowedUser(
        signal, x.shape[2] * torch.arange(n), torch.zeros(n, dtype=torch.long), torch.arange(n), ("r",), W
    )


def three(x: torch.Tensor, labels: np.ndarray) -> list[tuple[WindowedUser, np.ndarray]]:
    """Three people with the same windows: of fewer nothing is measured."""
    return [(user(x), labels)] * FEWEST_PEOPLE


def noise(n: int, scale: tuple[float, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(n, C, W, generator=torch.Generator().manual_seed(seed)) * torch.tensor(scale).view(1, C, 1)


def test_drawn_windows_have_the_measured_moments() -> None:
    x = noise(400, (1.0, 2.0, 0.5))
    x[:, 1] = 0.8 * x[:, 1] + 1.2 * x[:, 0]
    x = x * torch.linspace(0.5, 2, 400).view(-1, 1, 1)
    first = measure(three(x, np.zeros(400, int)), 1)
    drawn, gestures = first.draw(4000, W, torch.Generator().manual_seed(1))
    assert drawn.shape == (4000, C, W)
    assert gestures.tolist() == [0] * 4000
    again = measure(three(drawn, np.zeros(4000, int)), 1)
    assert torch.allclose(again.mean, first.mean, atol=0.05)
    assert torch.allclose(again.covariance, first.covariance, atol=0.05)
    assert torch.allclose(again.correlation, first.correlation, atol=0.1)


def test_every_user_counts_the_same_whatever_the_number_of_windows() -> None:
    people = noise(5, (1, 1, 1)), noise(500, (4, 4, 4), seed=1), noise(50, (2, 2, 2), seed=2)
    all_three = measure([(user(x), np.zeros(len(x), int)) for x in people], 1)
    each = [measure(three(x, np.zeros(len(x), int)), 1).mean for x in people]
    assert torch.allclose(all_three.mean, sum(each) / 3)  # type: ignore[arg-type]
    variance = all_three.covariance.diagonal(dim1=1, dim2=2)
    assert float(variance.min()) > 0.2  # the difference between users is part of it


def test_nothing_is_measured_of_a_gesture_that_fewer_than_three_people_show() -> None:
    """Gesture 0: three users, 1: two, 2: one, 3: nobody; and user names are no people."""
    shown = ((0, 1, 2), (0, 1), (0,))
    users = [(user(noise(20, (i + 1, 1, 1), i)), np.resize(g, 20)) for i, g in enumerate(shown)]
    statistics = measure(users, 4)
    nobody = measure(three(noise(20, (1, 1, 1)), np.zeros(20, int)), 4)
    assert statistics.power.sum(1).gt(0).tolist() == [True, False, False, False]
    for k in (1, 2, 3):
        for found, empty in zip(statistics.tensors().values(), nobody.tensors().values(), strict=True):
            assert torch.equal(found[k], empty[3])
    names = measure(users, 4, ["ann", "ben", "ann"])
    assert not names.power.any()
    assert torch.equal(measure(users, 4, ["ann", "ben", "cleo"]).mean, statistics.mean)


def test_drawing_where_no_gesture_is_known_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="know no gesture: each was shown by fewer than 3 source users"):
        measure([(user(noise(20, (1, 1, 1))), np.zeros(20, int))] * 2, 2).draw(5, W, torch.Generator())


def test_a_gesture_that_nobody_showed_is_never_drawn() -> None:
    statistics = measure(three(noise(20, (1, 1, 1)), np.arange(20) % 2 * 2), 3)
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
    statistics = measure([(windows, np.arange(n) % classes)] * 3, classes)
    shapes = {name.partition(".")[2]: tuple(t.shape) for name, t in statistics.tensors().items()}
    assert shapes == moment_shapes(channels, classes, window)
    assert statistics.problem() is None
    drawn, gestures = statistics.draw(3, window, generator)
    assert drawn.shape == (len(gestures), channels, window)
    assert bool(torch.isfinite(drawn).all())


def test_statistics_come_back_from_their_tensors() -> None:
    first = measure(three(noise(20, (1, 2, 3)), np.arange(20) % 2), 2)
    again = SignalStatistics.from_tensors(first.tensors())
    assert all(torch.equal(a, b) for a, b in zip(first.tensors().values(), again.tensors().values(), strict=True))
    with pytest.raises(KeyError):
        SignalStatistics.from_tensors({})


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.floats(-9, 30), st.floats(-9, 30), st.integers(0, 99))
def test_whatever_is_measured_passes_as_moments(count: int, loud: float, louder: float, seed: int) -> None:
    """From silence to the loudest, pure tones and offsets included."""
    tone = torch.sin(torch.arange(W) * 0.7).expand(count, C, W)
    users = []
    for x in (noise(count, (1, 1, 1), seed) * np.exp(loud), tone * np.exp(louder), torch.ones(count, C, W), 0 * tone):
        users.append((user(x), np.zeros(count, int)))
    assert measure(users, 2).problem() is None


def moments(**changes: torch.Tensor) -> SignalStatistics:
    plain = measure(three(noise(40, (1, 2, 3)), np.arange(40) % 2), 2)
    return SignalStatistics(**{**plain.__dict__, **changes})


SKEWED = torch.eye(C).repeat(2, 1, 1)
SKEWED[1, 0, 2] = 0.5


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mean": torch.full((2, C), 50.0)}, "log RMS"),
        ({"covariance": -torch.eye(C).repeat(2, 1, 1)}, "negative variance"),
        ({"covariance": 1e4 * torch.eye(C).repeat(2, 1, 1)}, "variance that no signal"),
        ({"covariance": SKEWED}, "covariance that is not symmetric"),
        ({"correlation": SKEWED}, "correlation that is not symmetric"),
        ({"correlation": 2 * torch.eye(C).repeat(2, 1, 1)}, "beyond 1"),
        ({"power": -torch.ones(2, W // 2 + 1)}, "negative power"),
        ({"power": torch.full((2, W // 2 + 1), 1e30)}, "power that no window"),
    ],
)
def test_what_cannot_be_moments_is_named(changes: dict[str, torch.Tensor], problem: str) -> None:
    assert moments().problem() is None
    assert problem in str(moments(**changes).problem())
