"""The refined second stage: where windows come from, what the teacher is, and what stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emgup_model import augmentation
from emgup_model.augmentation import Augmentation
from emgup_model.backbones import Backbone
from emgup_model.data.windows import WindowedUser
from emgup_model.methods import refined
from emgup_model.methods.base import Target, copy_model, predict_logits
from emgup_model.methods.objective import ObjectiveConfig
from emgup_model.methods.refined import RefinedSspConfig, _off_grid, run_refined_ssp
from emgup_model.methods.refined_labels import RefinedLabels
from emgup_model.methods.replay import Replay, ReplayConfig
from tests.model.methods.toys import L, differing, toy_target, toy_user, weights

HOP, W = 10, 20


def counting(sizes: list[int], dropped: set[int] = frozenset()) -> WindowedUser:  # type: ignore[assignment]
    """Windows of a signal that counts its samples; recordings have a few samples after their last window."""
    starts, recording, position, offset = [], [], [], 0
    for i, n in enumerate(sizes):
        starts += [offset + HOP * w for w in range(n)]
        recording += [i] * n
        position += [*range(n)]
        offset += HOP * (n - 1) + W + 7
    whole = WindowedUser(
        torch.arange(float(offset))[None],
        torch.tensor(starts),
        torch.tensor(recording),
        torch.tensor(position),
        ("r",) * len(sizes),
        W,
    )
    keep = torch.tensor([i not in dropped for i in range(len(starts))])
    keep[0] = True
    return whole.subset(keep)


def run(
    model: Backbone,
    config: RefinedSspConfig,
    *,
    frozen: bool = True,
    gradients: bool = True,
    ring: bool = True,
    seed: int = 0,
    gains: tuple[float, ...] = (2.0, 1, 1, 1),
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(weights and buffers of an adapted copy, log) on a toy user."""
    model, target = copy_model(model), Target(toy_user(gains=gains)[0], L, ring)
    generator = torch.Generator().manual_seed(seed)
    log = run_refined_ssp(model, target, config, frozen_bn=frozen, gradients=gradients, generator=generator)
    return weights(model), log


def brief(**changes: Any) -> RefinedSspConfig:
    """Two epochs that return the student, unless said otherwise; the defaults are tuned and may move."""
    return RefinedSspConfig(**({"epochs": 2, "batch_windows": 128, "ema": 0.0} | changes))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.sets(st.integers(1, 40), max_size=12),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_off_grid_windows_stay_near_and_between_the_given_ends_of_their_recording(
    sizes: list[int], dropped: set[int], share: float, seed: int
) -> None:
    windows = counting(sizes, dropped)
    index = torch.randint(len(windows), (64,), generator=torch.Generator().manual_seed(seed))
    x = _off_grid(windows, index, share, torch.Generator().manual_seed(seed))
    start = x[:, 0, 0].long()
    assert x.shape == (64, 1, W)
    assert torch.equal(x[:, 0], start.unsqueeze(1) + torch.arange(float(W)))
    gaps = windows.starts.diff()
    reach = share * float(gaps.median()) if len(gaps) else 0
    assert bool(((start - windows.starts[index]).abs() <= reach).all())
    for recording in windows.recording.unique():
        here = start[windows.recording[index] == recording]
        given_starts = windows.starts[windows.recording == recording]
        assert bool(((here >= given_starts.min()) & (here <= given_starts.max())).all())


def test_off_grid_windows_start_anywhere_within_half_a_hop() -> None:
    windows = counting([30])
    x = _off_grid(windows, torch.full((2000,), 10), 0.5, torch.Generator().manual_seed(0))
    assert (x[:, 0, 0].long() - 100).unique().tolist() == list(range(-5, 6))


def test_without_a_shift_the_windows_are_those_of_the_grid() -> None:
    windows, index = counting([5, 5]), torch.tensor([3, 0, 9])
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert torch.equal(_off_grid(windows, index, 0.0, generator), windows.batch(index))
    assert torch.equal(generator.get_state(), state)


def test_one_window_has_no_hop_to_move_by() -> None:
    windows = counting([1])
    assert torch.equal(_off_grid(windows, torch.tensor([0]), 1.0, torch.Generator()), windows.batch())


def test_after_one_step_the_model_is_the_average_of_where_it_was_and_where_the_student_is(trained: Backbone) -> None:
    one_step = {"epochs": 1, "batch_windows": 10_000}
    before = weights(trained)
    student, log = run(trained, brief(**one_step))
    teacher, _ = run(trained, brief(**one_step, ema=0.75))
    assert log["steps"] == 1
    moved = differing(before, student)
    assert {"blocks.0.weight", "blocks.4.weight", "blocks.8.weight", "project.weight", "norm.weight"} <= moved
    for name in moved:
        assert torch.allclose(teacher[name], 0.75 * before[name] + 0.25 * student[name], atol=1e-6), name


@pytest.mark.parametrize(("frozen", "ema"), [(True, 0.0), (True, 0.75), (False, 0.0), (False, 0.75)])
def test_every_epoch_is_labelled_by_the_teacher_that_would_be_returned(
    trained: Backbone, monkeypatch: pytest.MonkeyPatch, frozen: bool, ema: float
) -> None:
    """With moving BatchNorm statistics the teacher takes over the student's at the end of an epoch."""
    labelling: list[dict[str, torch.Tensor]] = []
    real = refined.embed_all

    def watched(model: Backbone, windows: WindowedUser) -> tuple[torch.Tensor, torch.Tensor]:
        labelling.append(weights(model))
        return real(model, windows)

    after_one, _ = run(trained, brief(epochs=1, ema=ema), frozen=frozen)
    monkeypatch.setattr(refined, "embed_all", watched)
    run(trained, brief(epochs=2, ema=ema), frozen=frozen)
    assert differing(labelling[0], weights(trained)) == set()
    assert differing(labelling[1], after_one) == set()


def test_the_classifier_stays(trained: Backbone) -> None:
    before = weights(trained)
    after, _ = run(trained, brief())
    assert not {name for name in differing(before, after) if name.startswith("head")}
    averaged, _ = run(trained, brief(ema=0.9))
    for name in ("head.weight", "head.bias"):  # averages of equal numbers, up to rounding
        assert torch.allclose(averaged[name], before[name], rtol=1e-5, atol=0)


def test_frozen_batch_norm_buffers_stay_and_others_move(trained: Backbone) -> None:
    buffers = {name for name, _ in trained.named_buffers()}
    before = weights(trained)
    frozen, moving = (run(trained, brief(), frozen=f)[0] for f in (True, False))
    assert not differing(before, frozen) & buffers
    assert differing(before, moving) >= buffers


def test_without_gradients_nothing_changes_while_every_step_is_counted(trained: Backbone) -> None:
    after, log = run(trained, brief(), gradients=False)
    assert differing(weights(trained), after) == set()
    assert log["steps"] == 2 * 2  # 174 windows in batches of 128
    assert len(log["loss"]) == 2
    moving, _ = run(trained, brief(), gradients=False, frozen=False)
    assert differing(weights(trained), moving) == {name for name, _ in trained.named_buffers()}


def test_without_epochs_nothing_changes(trained: Backbone) -> None:
    after, log = run(trained, brief(epochs=0))
    assert differing(weights(trained), after) == set()
    assert log == {"steps": 0, "loss": [], "mass": []}


def test_one_seed_gives_one_result_and_the_global_generator_is_left_alone(trained: Backbone) -> None:
    state = torch.get_rng_state()
    first, log = run(trained, brief(), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    again, log_again = run(trained, brief(), seed=3)
    other, _ = run(trained, brief(), seed=4)
    assert differing(first, again) == set()
    assert log == log_again
    assert differing(first, other)


def test_a_last_batch_of_one_window_is_left_out(trained: Backbone) -> None:
    _, log = run(trained, brief(epochs=1, batch_windows=173))
    assert log["steps"] == 1


@pytest.mark.parametrize("ring", [True, False])
def test_only_rings_are_turned_and_all_others_get_their_gains(
    trained: Backbone, monkeypatch: pytest.MonkeyPatch, ring: bool
) -> None:
    turned: list[int] = []
    real = augmentation.rotate

    def watched(x: torch.Tensor, electrodes: torch.Tensor) -> torch.Tensor:
        turned.append(len(x))
        return real(x, electrodes)

    monkeypatch.setattr(augmentation, "rotate", watched)
    config = brief(augmentation=Augmentation(rotated_share=1.0, rotation_electrodes=0.5, gain_log_sd=0.15))
    after, log = run(trained, config, ring=ring)
    assert turned == ([128, 46] * 2 if ring else [])
    plain = config.augmentation.model_copy(update={"rotated_share": 0.0})
    without, _ = run(trained, config.model_copy(update={"augmentation": plain}), ring=True)
    assert bool(differing(after, without)) is ring
    assert log["steps"] == 4


def test_the_stage_lowers_its_loss_and_finds_a_loud_channels_gestures(trained: Backbone) -> None:
    gains = (2.5, 1.0, 1.0, 1.0)
    windows, gestures = toy_user(gains=gains)
    model = copy_model(trained)
    target = Target(windows, L, True)
    log = run_refined_ssp(
        model,
        target,
        brief(epochs=8, learning_rate=3e-3),
        frozen_bn=True,
        gradients=True,
        generator=torch.Generator().manual_seed(0),
    )
    before, after = (float((predict_logits(m, windows).argmax(1) == gestures).float().mean()) for m in (trained, model))
    assert after > before + 0.05
    assert log["loss"][-1] < log["loss"][0]
    assert sum(log["mass"]) == pytest.approx(1, abs=1e-3)


def test_off_grid_windows_do_not_reach_into_a_gap_of_what_was_given() -> None:
    user, _ = toy_user()
    given = user.subset((user.recording == 0) & ((user.position < 3) | (user.position > 5)))
    edge = torch.full((500,), 2)  # the last window before the gap
    x = _off_grid(given, edge, 0.5, torch.Generator().manual_seed(0))
    allowed = user.view()[int(given.starts[1]) : int(given.starts[2]) + 1]
    assert all(bool((allowed == window).flatten(1).all(1).any()) for window in x)


@pytest.mark.parametrize("rehearsing", [False, True])
@pytest.mark.parametrize("prior", [(0.2, 0.3, 0.5), (1 / 3, 1 / 3, 1 / 3)])
def test_predictions_are_pulled_to_the_prior_not_to_the_shares_of_the_labels(
    trained: Backbone, monkeypatch: pytest.MonkeyPatch, prior: tuple[float, float, float], rehearsing: bool
) -> None:
    windows, _ = toy_user()
    mass = torch.tensor([0.8, 0.1, 0.1])
    labels = RefinedLabels(mass.expand(len(windows), 3), torch.tensor(prior), mass)
    monkeypatch.setattr(refined, "refine", lambda *_: labels)
    config = brief(
        epochs=30,
        learning_rate=3e-3,
        objective=ObjectiveConfig(label_weight=0.0, entropy_weight=0.0, diversity_weight=1.0),
        augmentation=Augmentation(),
    )
    model, generator = copy_model(trained), torch.Generator().manual_seed(0)
    target = toy_target()
    replay = Replay(ReplayConfig(weight=1e-6, batch_windows=8), target, 0, generator) if rehearsing else None
    run_refined_ssp(model, target, config, frozen_bn=True, gradients=True, generator=generator, replay=replay)
    mean = predict_logits(model, windows).softmax(1).mean(0)
    assert torch.allclose(mean, torch.tensor(prior), atol=0.05)
