"""Rotations interpolate between electrodes, gains are log-normal, and the default changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emgup_model.augmentation import Augmentation, rotate
from emgup_model.config import parse
from emgup_model.errors import ConfigError


def angles(x: torch.Tensor) -> torch.Tensor:
    """(B,) electrodes by which windows with a signal on channel 0 alone were turned, in −2 to 2."""
    around = torch.tensor([0.0, -1, -2, -3, 3, 2, 1])  # channel c of 7 reads position c + e: 0 lies at channel −e
    return (x[:, :, 0].square() * around).sum(1)  # between two electrodes the powers are shared linearly


def one_hot(windows: int) -> torch.Tensor:
    x = torch.zeros(windows, 7, 3)
    x[:, 0] = 1
    return x


@pytest.mark.parametrize("electrodes", range(-5, 6))
def test_whole_rotations_roll_the_channels(electrodes: int) -> None:
    x = torch.randn(3, 4, 6)
    assert torch.equal(rotate(x, torch.full((3,), float(electrodes))), x.roll(-electrodes, 1))


@settings(max_examples=40, deadline=None)
@given(st.floats(-9, 9, width=32), st.integers(1, 8))
def test_between_two_electrodes_their_signals_are_mixed_linearly_with_the_power_between_theirs(
    electrodes: float, channels: int
) -> None:
    x = torch.randn(2, channels, 3, generator=torch.Generator().manual_seed(0))
    part = electrodes - math.floor(electrodes)
    near, far = x.roll(-math.floor(electrodes), 1), x.roll(-math.floor(electrodes) - 1, 1)
    turned = rotate(x, torch.full((2,), electrodes))
    assert torch.allclose(F.normalize(turned, dim=2), F.normalize((1 - part) * near + part * far, dim=2), atol=1e-4)
    power = (1 - part) * near.square().mean(2) + part * far.square().mean(2)
    assert torch.allclose(turned.square().mean(2), power, rtol=1e-3)


@pytest.mark.parametrize("electrodes", [0.25, 0.5, -0.5, 1.75])
def test_a_turn_by_a_fraction_keeps_the_amplitude(electrodes: float) -> None:
    x = torch.randn(200, 8, 52, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, torch.full((200,), electrodes))
    assert float(turned.square().mean().sqrt() / x.square().mean().sqrt()) == pytest.approx(1, abs=1e-3)


def test_silent_electrodes_stay_silent() -> None:
    assert torch.equal(rotate(torch.zeros(2, 4, 5), torch.tensor([0.5, 1.0])), torch.zeros(2, 4, 5))


def test_every_window_is_turned_by_its_own_rotation_and_time_stays() -> None:
    x = torch.arange(4.0).view(1, 4, 1).expand(4, 4, 3) + 1
    electrodes = torch.tensor([0, 1, 0.5, -0.25])
    turned = rotate(x, electrodes)
    assert torch.equal(turned, turned[:, :, :1].expand(-1, -1, 3))
    power = turned[:, :, 0].square()
    assert torch.allclose(power[0], torch.tensor([1.0, 4, 9, 16]))
    assert torch.allclose(power[1], torch.tensor([4.0, 9, 16, 1]))
    assert torch.allclose(power[2], torch.tensor([2.5, 6.5, 12.5, 8.5]))
    assert torch.allclose(power[3], torch.tensor([0.75 + 4, 0.25 + 3, 1 + 6.75, 2.25 + 12]))


def test_one_channel_cannot_be_turned() -> None:
    x = torch.randn(4, 1, 5)
    assert torch.allclose(rotate(x, torch.tensor([0.0, 0.5, 1.0, -0.3])), x, atol=1e-6)


@pytest.mark.parametrize("limit", [0.5, 1.0, 2.0])
def test_rotations_are_uniform_within_the_limit(limit: float) -> None:
    augmentation = Augmentation(rotated_share=1.0, rotation_electrodes=limit)
    turned = angles(augmentation.apply(one_hot(4000), torch.Generator().manual_seed(0)))
    assert float(turned.abs().max()) <= limit
    quarters = torch.histc(turned, 4, -limit, limit) / 4000
    assert torch.allclose(quarters, torch.full((4,), 0.25), atol=0.03)


def test_only_the_stated_share_of_the_windows_is_turned() -> None:
    x = one_hot(4000)
    turned = Augmentation(rotated_share=0.3).apply(x, torch.Generator().manual_seed(0))
    changed = (turned != x).flatten(1).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.3, abs=0.03)


def test_gains_are_log_normal_per_window_and_per_channel() -> None:
    x = torch.ones(4000, 4, 5)
    log_gain = Augmentation(gain_log_sd=0.2).apply(x, torch.Generator().manual_seed(0)).log()
    assert torch.equal(log_gain, log_gain[:, :, :1].expand(-1, -1, 5))
    assert float(log_gain.std()) == pytest.approx(0.2 * 2**0.5, rel=0.05)
    assert float(log_gain.mean(1).std()) == pytest.approx(0.2 * (1 + 1 / 4) ** 0.5, rel=0.05)
    assert float(log_gain.mean()) == pytest.approx(0, abs=0.02)


def test_the_default_and_rotations_of_nothing_change_nothing() -> None:
    x = torch.randn(50, 4, 5)
    for augmentation in (
        Augmentation(),
        Augmentation(rotated_share=0.0, rotation_electrodes=3),
        Augmentation(rotated_share=1.0, rotation_electrodes=0),
    ):
        assert not augmentation.rotates
        assert torch.equal(augmentation.apply(x, torch.Generator()), x)
    assert Augmentation(rotated_share=0.1).rotates


def test_the_windows_given_stay_as_they_were_and_the_generator_decides_alone() -> None:
    x = torch.randn(20, 4, 5)
    before = x.clone()
    augmentation = Augmentation(rotated_share=0.5, gain_log_sd=0.2)
    one, two = (augmentation.apply(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "data", [{"rotated_share": 1.1}, {"rotation_electrodes": -1}, {"gain_log_sd": -0.1}, {"rotated": 1}]
)
def test_settings_out_of_range_are_one_line(data: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as error:
        parse(Augmentation, data, "here")
    assert "\n" not in str(error.value)
