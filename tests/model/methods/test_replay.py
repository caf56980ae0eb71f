"""Replayed windows look like the user's armband would record them, and are learnt with smoothed labels."""

from __future__ import annotations

import pytest
import torch

from emgup_model.augmentation import Augmentation
from emgup_model.backbones import Backbone
from emgup_model.methods.alignment import RotationConfig
from emgup_model.methods.base import Target, copy_model
from emgup_model.methods.replay import Replay, ReplayConfig, interpolate
from emgup_model.methods.safety import SafetyConfig, begin
from tests.model.methods.toys import CHANNELS, CLASSES, L, toy_statistics, toy_target, toy_user, weights

PLAIN = ReplayConfig(per_gesture=200, batch_windows=600, augmentation=Augmentation())


def channel_power(x: torch.Tensor, gestures: torch.Tensor) -> torch.Tensor:
    """(K, C) mean log RMS."""
    log_rms = x.square().mean(2).log() / 2
    return torch.stack([log_rms[gestures == k].mean(0) for k in range(CLASSES)])


@pytest.mark.parametrize("turned", range(CHANNELS))
def test_replayed_windows_are_turned_as_the_users_armband_is(trained: Backbone, turned: int) -> None:
    windows, gestures = toy_user(turned=turned)
    target = Target(windows, L, True, toy_statistics())
    rotation = begin(trained, target, RotationConfig(), SafetyConfig()).rotation
    x, y = Replay(PLAIN, target, rotation, torch.Generator().manual_seed(0)).batch()
    assert torch.allclose(channel_power(x, y), channel_power(windows.batch(), gestures), atol=0.2)


def test_replayed_windows_are_augmented_and_off_a_ring_not_turned() -> None:
    """Gains move each channel's mean level little; a turn moves a loud channel's to its neighbours."""
    config = PLAIN.model_copy(update={"augmentation": Augmentation(rotated_share=1.0, gain_log_sd=0.2)})
    for ring in (True, False):
        generator = torch.Generator().manual_seed(0)
        x, y = Replay(config, toy_target(ring=ring), 0, generator).batch()
        plain = Replay(PLAIN, toy_target(ring=ring), 0, torch.Generator().manual_seed(0)).batch()[0]
        difference = channel_power(x, y) - channel_power(plain, y)
        assert float(difference.abs().max()) > 1e-4
        assert (float(difference.abs().max()) > 0.3) is ring


def test_the_loss_is_the_weighted_cross_entropy_with_smoothed_labels() -> None:
    config = PLAIN.model_copy(update={"weight": 2.0, "label_smoothing": 0.3})
    replay = Replay(config, toy_target(), 0, torch.Generator().manual_seed(0))
    logits, y = torch.randn(7, CLASSES, generator=torch.Generator().manual_seed(1)), torch.arange(7) % CLASSES
    wanted = torch.full((7, CLASSES), 0.3 / CLASSES)
    wanted[torch.arange(7), y] += 0.7
    expected = 2 * -(wanted * logits.log_softmax(1)).sum(1).mean()
    assert float(replay.loss(logits, y)) == pytest.approx(float(expected), abs=1e-5)


def test_interpolation_keeps_the_given_share_of_the_change(trained: Backbone) -> None:
    start = moved_everywhere(trained)
    before, other = weights(trained), weights(start)
    interpolate(start, trained, 0.25)
    for name, _ in trained.named_parameters():
        expected = 0.75 * other[name] + 0.25 * before[name]
        assert torch.allclose(weights(trained)[name], expected, atol=1e-6), name


def moved_everywhere(model: Backbone) -> Backbone:
    """The same network with every weight moved."""
    moved = copy_model(model)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(0.5)
    return moved
