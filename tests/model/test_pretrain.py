from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emgup_model import augmentation
from emgup_model.augmentation import Augmentation
from emgup_model.backbones import CnnConfig, build_backbone
from emgup_model.config import parse
from emgup_model.data.store import Recording, Store, write_user
from emgup_model.data.windows import UNLABELLED, PreprocessingConfig, WindowConfig, WindowedUser
from emgup_model.errors import ConfigError, DataError
from emgup_model.methods.base import predict_logits
from emgup_model.pretrain import Epoch, PretrainConfig, Trained, train_source, validation_accuracy
from emgup_model.release import state_tensors
from emgup_model.signal_statistics import measure
from emgup_model.source_users import LabelledUser, WindowSampler, amplitude_constant, load_labelled, rescale
from tests.toy import GESTURES, toy_info, toy_recordings

GRID = WindowConfig(length=20, hop=10, sequence_length=8)
FILTER = PreprocessingConfig(highpass_hz=None)
BACKBONE = CnnConfig(width=8, embedding_dim=8)
CONFIG = PretrainConfig(epochs=4, batch_windows=64, learning_rate=1e-2)


class InterruptedTrainingError(Exception):
    pass


@pytest.fixture(scope="module")
def users(toy_store: Store) -> list[LabelledUser]:
    return [load_labelled(toy_store, u, GRID, FILTER) for u in toy_store.users]


def train(users: list[LabelledUser], store: Store, state: Path | None = None, stop_after: int = 99) -> Trained:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == stop_after:
            raise InterruptedTrainingError

    info = store.infos[store.users[0]]
    return train_source(
        users[:2], users[2:3], info, BACKBONE, GRID, CONFIG, seed=1, state_file=state, on_epoch=on_epoch
    )


def test_training_learns_and_reports_the_best_validation_epoch(users: list[LabelledUser], toy_store: Store) -> None:
    trained = train(users, toy_store)
    assert trained.validation_accuracy > 0.9
    assert 1 <= trained.best_epoch <= trained.epochs
    assert not trained.model.training


@pytest.mark.parametrize("stop_after", [1, 3])
def test_interrupted_training_goes_on_to_the_same_weights(
    users: list[LabelledUser], toy_store: Store, tmp_path: Path, stop_after: int
) -> None:
    whole = train(users, toy_store)
    with pytest.raises(InterruptedTrainingError):
        train(users, toy_store, tmp_path / "state.pt", stop_after)
    torch.rand(11)
    resumed = train(users, toy_store, tmp_path / "state.pt")
    for name, tensor in state_tensors(whole.model).items():
        assert torch.equal(tensor, state_tensors(resumed.model)[name]), name
    assert replace(resumed, model=whole.model, statistics=whole.statistics) == whole
    mine, other = resumed.statistics.tensors(), whole.statistics.tensors()
    assert all(torch.equal(mine[name], other[name]) for name in other)


def test_a_damaged_or_foreign_state_file_is_ignored(
    users: list[LabelledUser], toy_store: Store, tmp_path: Path
) -> None:
    state = tmp_path / "state.pt"
    state.write_bytes(b"not a checkpoint")
    damaged = train(users, toy_store, state)
    torch.save({"key": "another training", "done": 99}, state)
    foreign = train(users, toy_store, state)
    assert damaged.epochs == foreign.epochs == 4


def test_early_stopping_waits_for_patience(users: list[LabelledUser], toy_store: Store) -> None:
    info = toy_store.infos["u0"]
    config = PretrainConfig(epochs=50, batch_windows=64, learning_rate=1e-2, patience=2)
    trained = train_source(users[:2], users[2:3], info, BACKBONE, GRID, config, seed=1)
    assert trained.epochs == trained.best_epoch + 2 < 50


def test_training_windows_stay_inside_their_recording_and_carry_its_label(users: list[LabelledUser]) -> None:
    user = users[0]
    marked = torch.repeat_interleave(torch.arange(6.0), torch.tensor(user.lengths)).expand(4, -1)
    sampler = WindowSampler(
        [
            LabelledUser(
                user.windows.__class__(marked, *list(user.windows.__dict__.values())[1:]),
                user.labels,
                user.sample_labels,
                user.lengths,
            )
        ],
        20,
        None,
    )
    seen = 0
    for x, y in sampler.epoch(16, torch.Generator().manual_seed(0)):
        assert (x.flatten(1).amax(1) == x.flatten(1).amin(1)).all()
        assert torch.equal(x[:, 0, 0].long() % 3, y)
        seen += len(x)
    assert seen == len(sampler) == len(user.windows)


def test_the_gesture_of_a_training_window_is_what_most_of_its_samples_show() -> None:
    """One recording that changes its gesture after every 37 samples; windows of 20 at any position."""
    samples = np.arange(2000) // 37 % 3
    grid = WindowedUser(
        torch.arange(2000.0).expand(4, -1),
        torch.zeros(400, dtype=torch.long),
        torch.zeros(400, dtype=torch.long),
        torch.arange(400),
        ("r",),
        20,
    )
    sampler = WindowSampler([LabelledUser(grid, np.zeros(400, int), samples, (2000,))], 20, None)
    batches = list(sampler.epoch(64, torch.Generator().manual_seed(0)))
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    counts = np.stack([np.bincount(samples[int(s) : int(s) + 20], minlength=3) for s in x[:, 0, 0]])
    assert (counts.argmax(1) == y.numpy()).all()
    assert (counts.max(1) > 10).all()  # ten against ten is a tie: dropped
    assert 300 < len(x) < 400


def test_windows_without_a_gesture_do_not_count_in_validation(users: list[LabelledUser]) -> None:
    torch.manual_seed(0)
    model = build_backbone(BACKBONE, 4, 3).eval()
    user = users[0]
    right = predict_logits(model, user.windows).argmax(1).numpy()
    half = right.copy()
    half[::2] = UNLABELLED
    assert validation_accuracy(model, [replace(user, labels=half)]) == 1.0


def test_rotation_needs_a_ring(users: list[LabelledUser], toy_store: Store) -> None:
    info = replace(toy_store.infos["u0"], ring=False)
    config = CONFIG.model_copy(update={"augmentation": Augmentation(rotated_share=0.5)})
    with pytest.raises(DataError, match="no ring"):
        train_source(users[:2], users[2:3], info, BACKBONE, GRID, config, seed=1)


@pytest.mark.parametrize(
    "changes",
    [Augmentation(gain_log_sd=0.1), Augmentation(rotated_share=0.5, rotation_electrodes=0)],
)
def test_gains_alone_need_no_ring(users: list[LabelledUser], toy_store: Store, changes: Augmentation) -> None:
    info = replace(toy_store.infos["u0"], ring=False)
    config = CONFIG.model_copy(update={"augmentation": changes, "epochs": 1})
    assert train_source(users[:2], users[2:3], info, BACKBONE, GRID, config, seed=1).epochs == 1


def test_every_training_window_is_augmented_and_no_validation_window(
    users: list[LabelledUser], toy_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned: list[int] = []
    real = augmentation.rotate

    def watched(x: torch.Tensor, electrodes: torch.Tensor) -> torch.Tensor:
        turned.append(len(x))
        return real(x, electrodes)

    monkeypatch.setattr(augmentation, "rotate", watched)
    config = CONFIG.model_copy(update={"augmentation": Augmentation(rotated_share=1.0), "epochs": 2})
    train_source(users[:2], users[2:3], toy_store.infos["u0"], BACKBONE, GRID, config, seed=1)
    assert sum(turned) == 2 * sum(len(u.windows) for u in users[:2])


def test_label_smoothing_keeps_the_loss_above_the_entropy_of_its_targets(
    users: list[LabelledUser], toy_store: Store
) -> None:
    share, K = 0.3, len(GESTURES)
    top, rest = 1 - share + share / K, share / K
    floor = -top * math.log(top) - (K - 1) * rest * math.log(rest)
    losses = {}
    for smoothing in (0.0, share):
        seen: list[Epoch] = []
        config = CONFIG.model_copy(update={"label_smoothing": smoothing, "epochs": 6})
        train_source(users[:2], users[2:3], toy_store.infos["u0"], BACKBONE, GRID, config, seed=1, on_epoch=seen.append)
        losses[smoothing] = seen[-1].loss
    assert losses[0.0] < floor < losses[share]


@pytest.mark.parametrize("data", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"augmentation": {"shift": 1}}])
def test_settings_that_make_no_sense_are_one_line(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        parse(PretrainConfig, data, "here")
    assert "\n" not in str(error.value)


def test_the_amplitude_constant_weighs_users_equally(users: list[LabelledUser]) -> None:
    each = [amplitude_constant([u]) for u in users]
    assert amplitude_constant(users) == pytest.approx(sum(each) / len(each))


def test_validation_accuracy_is_the_mean_of_users(users: list[LabelledUser], toy_store: Store) -> None:
    model = train(users, toy_store).model
    each = [validation_accuracy(model, [u]) for u in users]
    assert validation_accuracy(model, users) == pytest.approx(sum(each) / len(each))


def test_a_user_with_one_gesture_is_refused(tmp_path: Path) -> None:
    one = [r for r in toy_recordings(0) if r.label == 1]
    write_user(tmp_path / "u.h5", toy_info("u"), one)
    with pytest.raises(DataError, match="one gesture only"):
        load_labelled(Store(tmp_path), "u", GRID, FILTER)


def test_the_returned_model_is_the_one_of_the_best_epoch_also_when_later_ones_are_worse(
    users: list[LabelledUser], toy_store: Store
) -> None:
    misled = replace(users[2], labels=(users[2].labels + 1) % len(GESTURES))  # learning lowers this accuracy
    seen: list[Epoch] = []
    config = CONFIG.model_copy(update={"epochs": 6})
    info = toy_store.infos["u0"]
    trained = train_source(users[:2], [misled], info, BACKBONE, GRID, config, seed=1, on_epoch=seen.append)
    accuracies = [e.validation_accuracy for e in seen]
    assert max(accuracies) == accuracies[trained.best_epoch - 1] == trained.validation_accuracy > accuracies[-1]
    assert validation_accuracy(trained.model, [rescale(misled, trained.scale)]) == trained.validation_accuracy


def test_scale_and_statistics_of_a_release_are_those_of_the_training_users_alone(
    users: list[LabelledUser], toy_store: Store
) -> None:
    config = CONFIG.model_copy(update={"epochs": 1})
    info = toy_store.infos["u0"]
    one, other = (
        train_source(users[:2], validation, info, BACKBONE, GRID, config, seed=1)
        for validation in (users[2:3], [rescale(users[3], 0.1)])
    )
    assert one.scale == other.scale == pytest.approx(amplitude_constant(users[:2]))
    expected = measure([(rescale(u, one.scale).windows, u.labels) for u in users[:2]], len(GESTURES)).tensors()
    for name, tensor in expected.items():
        assert torch.allclose(one.statistics.tensors()[name], tensor, atol=1e-5), name
        assert torch.equal(one.statistics.tensors()[name], other.statistics.tensors()[name]), name


def test_a_validation_user_with_few_windows_counts_as_much_as_one_with_many(
    users: list[LabelledUser], toy_store: Store
) -> None:
    model = train(users, toy_store).model
    predicted = predict_logits(model, users[0].windows).argmax(1)
    right = replace(users[0], labels=predicted.numpy())
    few = torch.arange(len(predicted)) % 10 == 0
    wrong = replace(right, windows=right.windows.subset(few), labels=(predicted[few].numpy() + 1) % len(GESTURES))
    assert validation_accuracy(model, [right, wrong]) == 0.5


def test_a_training_window_has_the_gesture_of_most_of_it_not_of_its_ends(tmp_path: Path) -> None:
    """70 % of each window, its centre included, is one gesture; its first or its last sample is another."""
    held = {"starts_otherwise": [2] * 6 + [1] * 14, "ends_otherwise": [0] * 14 + [1] * 6}
    recordings = [
        Recording(name, 0, 0, float(i), np.full((20, 4), i, np.float32), np.array(labels, np.int64))
        for i, (name, labels) in enumerate(held.items())
    ]
    write_user(tmp_path / "u.h5", toy_info("u"), recordings)
    user = load_labelled(Store(tmp_path), "u", GRID, FILTER)
    ((x, y),) = WindowSampler([user], GRID.length, None).epoch(8, torch.Generator().manual_seed(0))
    assert dict(zip(x[:, 0, 0].tolist(), y.tolist(), strict=True)) == {0.0: 1, 1.0: 0}
