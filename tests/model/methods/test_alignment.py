"""Rotation acts on the first layer exactly as it would on the windows, and finds what was planted."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from emgup_model.augmentation import rotate
from emgup_model.backbones import Backbone
from emgup_model.methods.alignment import (
    information,
    rotated,
    rotation_matrix,
    rotation_scores,
)
from emgup_model.methods.base import copy_model, predict_logits
from tests.model.methods.toys import CHANNELS, differing, toy_user, weights

FIRST = "blocks.0.weight"


def accuracy(model: Backbone, gains: tuple[float, ...] = (1, 1, 1, 1)) -> float:
    windows, gestures = toy_user(gains=gains)
    return float((predict_logits(model, windows).argmax(1) == gestures).float().mean())


@pytest.mark.parametrize("seed", range(3))
def test_mixing_channels_is_feeding_the_mixed_windows(trained: Backbone, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix, x = torch.randn(CHANNELS, CHANNELS, generator=generator), torch.randn(9, CHANNELS, 20, generator=generator)
    source, before = copy_model(trained), weights(trained)
    trained.mix_channels(matrix)
    with torch.no_grad():
        assert torch.allclose(trained(x), source(matrix @ x), atol=1e-4)
    assert differing(before, weights(trained)) == {FIRST}
    assert trained.get_parameter(FIRST).requires_grad


def test_mixing_twice_applies_the_later_matrix_to_the_windows_first(trained: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, x = (torch.randn(CHANNELS, n, generator=generator) for n in (CHANNELS, CHANNELS, 20))
    source = copy_model(trained)
    trained.mix_channels(a)
    trained.mix_channels(b)
    with torch.no_grad():
        assert torch.allclose(trained(x[None]), source((a @ b @ x)[None]), atol=1e-3)


@pytest.mark.parametrize("electrodes", range(-1, 6))
def test_the_rotation_matrix_is_the_rotation_of_the_augmentation(electrodes: int) -> None:
    x = torch.randn(2, 5, 7)
    turned = rotate(x, torch.full((2,), float(electrodes)))
    assert torch.equal(rotation_matrix(5, electrodes) @ x, turned)
    assert torch.equal(turned, x.roll(-electrodes, 1))


@pytest.mark.parametrize("electrodes", range(CHANNELS))
def test_a_rotated_model_does_with_windows_what_the_source_does_with_rolled_ones(
    trained: Backbone, electrodes: int
) -> None:
    windows, _ = toy_user()
    before, x = weights(trained), windows.batch()
    turned = rotated(trained, electrodes, windows)
    with torch.no_grad():
        assert torch.allclose(turned(x), trained(x.roll(-electrodes, 1)), atol=1e-5)
    assert turned is not trained
    assert differing(before, weights(trained)) == set()
    assert differing(before, weights(turned)) == ({FIRST} if electrodes else set())


@pytest.mark.parametrize("turned", range(CHANNELS))
def test_the_best_score_turns_the_planted_rotation_back(trained: Backbone, turned: int) -> None:
    windows, gestures = toy_user(turned=turned)
    before = weights(trained)
    scores = rotation_scores(trained, windows)
    best = int(scores.argmax())
    assert best == -turned % CHANNELS
    assert scores.shape == (CHANNELS,)
    assert bool(((scores >= 0) & (scores <= 1)).all())
    assert float(scores[best]) > float(scores.sort().values[-2]) + 0.1
    back = predict_logits(rotated(trained, best, windows), windows).argmax(1)
    assert float((back == gestures).float().mean()) > 0.9
    assert differing(before, weights(trained)) == set()


def test_information_is_log_k_for_clear_and_varied_decisions_and_zero_for_vague_or_equal_ones() -> None:
    clear = 50 * F.one_hot(torch.arange(12) % 3, 3).float()
    assert information(clear) == pytest.approx(math.log(3), abs=1e-4)
    assert information(clear[:1].expand(12, 3)) == pytest.approx(0, abs=1e-4)
    assert information(torch.randn(3).expand(12, 3)) == pytest.approx(0, abs=1e-5)
