"""Rotation and gains act on the first layer exactly as they would on the windows, and find what was planted."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from emgup_model.augmentation import rotate
from emgup_model.backbones import Backbone
from emgup_model.data.windows import WindowedUser
from emgup_model.methods import alignment
from emgup_model.methods.alignment import (
    GainConfig,
    fit_gains,
    information,
    rotated,
    rotation_matrix,
    rotation_scores,
)
from emgup_model.methods.base import Target, copy_model, predict_logits
from tests.model.methods.toys import CHANNELS, CLASSES, L, differing, toy_user, weights

FIRST = "blocks.0.weight"


def accuracy(model: Backbone, gains: tuple[float, ...] = (1, 1, 1, 1)) -> float:
    windows, gestures = toy_user(gains=gains)
    return float((predict_logits(model, windows).argmax(1) == gestures).float().mean())


def fit(model: Backbone, gains: tuple[float, ...] = (1, 1, 1, 1), config: GainConfig | None = None) -> list[float]:
    """Gains fitted into ``model`` on a toy user."""
    target = Target(toy_user(gains=gains)[0], L)
    log = fit_gains(model, target, config or GainConfig(), torch.Generator().manual_seed(0))
    assert set(log) == {"gains", "mass"}
    assert len(log["gains"]) == CHANNELS
    assert len(log["mass"]) == CLASSES
    return [float(g) for g in log["gains"]]


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


@pytest.mark.parametrize("channel", [0, 2])
def test_a_channel_that_is_too_loud_is_turned_down_and_one_too_quiet_up(trained: Backbone, channel: int) -> None:
    for factor in (2.0, 0.5):
        gains = tuple(factor if c == channel else 1.0 for c in range(CHANNELS))
        model = copy_model(trained)
        fitted = fit(model, gains)
        assert (fitted[channel] < 0.9) if factor > 1 else (fitted[channel] > 1.1)
        assert accuracy(model, gains) > accuracy(trained, gains)


def test_gains_change_the_first_layer_only_and_by_the_logged_factors(trained: Backbone) -> None:
    before = weights(trained)
    fitted = fit(trained, (2.0, 1, 1, 1))
    assert differing(before, weights(trained)) == {FIRST}
    scaled = before[FIRST] * torch.tensor(fitted).view(1, CHANNELS, 1, 1)
    assert torch.allclose(trained.get_parameter(FIRST), scaled, atol=1e-4)


def test_after_gains_every_weight_can_be_trained_again(trained: Backbone) -> None:
    fit(trained, config=GainConfig(epochs=1))
    assert all(p.requires_grad for p in trained.parameters())
    assert all(p.grad is None for p in trained.parameters())


def test_labels_are_renewed_every_epoch_with_the_gains_so_far(
    trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = weights(trained), {}
    for epochs in (1, 2):
        model = copy_model(trained)
        fit(model, (2.0, 1, 1, 1), GainConfig(epochs=epochs))
        after[epochs] = weights(model)
    labelling: list[dict[str, torch.Tensor]] = []
    real = alignment.embed_all

    def watched(model: Backbone, windows: WindowedUser) -> tuple[torch.Tensor, torch.Tensor]:
        labelling.append(weights(model))
        return real(model, windows)

    monkeypatch.setattr(alignment, "embed_all", watched)
    fit(trained, (2.0, 1, 1, 1), GainConfig(epochs=2))
    assert [differing(a, b) for a, b in zip(labelling, (before, after[1], after[2]), strict=True)] == [set()] * 3


def test_no_epochs_of_gains_are_the_identity(trained: Backbone) -> None:
    before = weights(trained)
    assert fit(trained, (2.0, 1, 1, 1), GainConfig(epochs=0)) == [1.0] * CHANNELS
    assert differing(before, weights(trained)) == set()


def test_a_strong_pull_keeps_gains_near_one(trained: Backbone) -> None:
    free, pulled = (
        fit(copy_model(trained), (2.0, 1, 1, 1), GainConfig(pull=pull, learning_rate=5e-3)) for pull in (0.0, 100.0)
    )
    assert max(abs(math.log(g)) for g in pulled) < 0.5 * max(abs(math.log(g)) for g in free)


def test_gains_are_the_same_for_the_same_draws_and_leave_the_global_ones_alone(trained: Backbone) -> None:
    state = torch.get_rng_state()
    first = fit(copy_model(trained))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert first == fit(copy_model(trained))


def test_the_mass_after_gains_is_the_share_of_each_gesture(trained: Backbone) -> None:
    for without, expected in (((), [1 / 3] * 3), ((1,), [0.5, 0, 0.5])):
        target = Target(toy_user(without=without)[0], L)
        mass = fit_gains(copy_model(trained), target, GainConfig(), torch.Generator().manual_seed(0))["mass"]
        assert mass == pytest.approx(expected, abs=0.02)
