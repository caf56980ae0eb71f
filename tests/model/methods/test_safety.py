"""The decision how far to go, with stubbed scores rule by rule, and once for real."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from emgup_model.backbones import Backbone
from emgup_model.methods import safety
from emgup_model.methods.alignment import RotationConfig, rotated
from emgup_model.methods.base import Target, copy_model, predict_logits
from emgup_model.methods.safety import SafetyConfig, Start, begin, best_probabilities, evenness, recovered
from tests.model.methods.toys import CHANNELS, CLASSES, L, differing, toy_user, weights

ROTATION = RotationConfig(margin=0.03, uncertain_margin=0.07)
SAFETY = SafetyConfig()
TURN = 3


def best(missing: int) -> torch.Tensor:
    """Best probabilities of the gestures of which so many are missing."""
    return torch.tensor([0.1] * missing + [0.9] * (CLASSES - missing))


@dataclass
class Stub:
    """Scores as planted: what each rotation is worth, and which gestures are missing before and after it."""

    source: Backbone
    advantage: float = 0.0
    missing: int = 0
    missing_turned: int = 0

    def rotation_scores(self, model: Backbone, windows: object) -> torch.Tensor:
        scores = torch.full((CHANNELS,), 0.1)
        scores[0], scores[TURN] = 0.5, 0.5 + self.advantage
        return scores

    def best_probabilities(self, model: Backbone, target: Target, windows: int) -> torch.Tensor:
        return best(self.missing_turned if differing(weights(model), weights(self.source)) else self.missing)


def start(
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
    rotation: RotationConfig | None = ROTATION,
    config: SafetyConfig | None = SAFETY,
    ring: bool = True,
) -> Start:
    monkeypatch.setattr(safety, "rotation_scores", stub.rotation_scores)
    monkeypatch.setattr(safety, "best_probabilities", stub.best_probabilities)
    return begin(stub.source, Target(toy_user()[0], L, ring), rotation, config)


@pytest.mark.parametrize(("missing", "decision"), [(0, "personalized"), (1, "guarded"), (2, "source"), (3, "source")])
def test_the_decision_is_by_the_number_of_missing_gestures(
    missing: int, decision: str, trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = start(Stub(trained, missing=missing), monkeypatch)
    assert result.decision == decision
    assert result.log["best"] == pytest.approx(best(missing).tolist(), abs=1e-4)
    assert result.model is not trained
    assert not differing(weights(result.model), weights(trained))


def test_a_gesture_is_missing_below_the_seen_probability(trained: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, decision in ((0.601, "personalized"), (0.599, "guarded")):
        stub = Stub(trained)
        monkeypatch.setattr(stub, "best_probabilities", lambda *_, value=value: torch.tensor([value, 0.9, 0.9]))
        assert start(stub, monkeypatch).decision == decision


def test_best_probabilities_are_the_mean_of_the_highest_of_each_gesture(trained: Backbone) -> None:
    target = Target(toy_user()[0], L)
    p = predict_logits(trained, target.windows).softmax(1).sort(0, descending=True).values
    assert torch.allclose(best_probabilities(trained, target, 4), p[:4].mean(0))
    assert torch.allclose(best_probabilities(trained, target, 10**6), p.mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("advantage", "missing", "missing_turned", "turned", "decision"),
    [
        (0.02, 0, 0, False, "personalized"),  # below the margin
        (0.05, 0, 0, True, "personalized"),
        (0.05, 1, 0, False, "guarded"),  # gestures seem missing: the larger margin counts
        (0.08, 1, 0, True, "personalized"),  # the rotation brings them back
        (0.08, 2, 0, True, "personalized"),
        (0.08, 1, 1, False, "guarded"),  # it does not
        (0.08, 2, 1, False, "source"),  # nor does bringing some of them back do
        (0.5, 0, 2, False, "personalized"),  # it makes gestures disappear
        (0.0, 0, 0, False, "personalized"),
    ],
)
def test_a_rotation_needs_its_margin_and_has_to_bring_missing_gestures_back(
    advantage: float,
    missing: int,
    missing_turned: int,
    turned: bool,
    decision: str,
    trained: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = start(Stub(trained, advantage, missing, missing_turned), monkeypatch)
    assert result.decision == decision
    assert result.rotation == result.log["rotation"] == (TURN if turned else 0)
    assert result.log["best_rotation"] == (TURN if advantage else 0)
    assert result.log["advantage"] == pytest.approx(advantage, abs=1e-4)
    kept = rotated(trained, TURN if turned else 0, toy_user()[0])
    assert not differing(weights(result.model), weights(kept))


def test_without_a_rotation_setting_nothing_is_turned(trained: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    result = start(Stub(trained, advantage=0.9), monkeypatch, rotation=None)
    assert (result.decision, result.rotation) == ("personalized", 0)
    assert not differing(weights(result.model), weights(trained))


@pytest.mark.parametrize(("shift", "electrodes"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 3), (7, 1)])
def test_a_far_turn_needs_more_where_gestures_seem_missing(shift: int, electrodes: int) -> None:
    assert safety._margin(ROTATION, shift, 8, missing=1) == pytest.approx(0.07 * electrodes)
    assert safety._margin(ROTATION, shift, 8, missing=0) == 0.03


def test_gestures_are_recovered_when_each_is_given_its_share(trained: Backbone) -> None:
    for without, expected in (((), True), ((1,), False)):
        assert recovered(trained, Target(toy_user(without=without)[0], L), SAFETY) is expected


def test_a_gesture_that_is_given_exactly_its_share_is_recovered(trained: Backbone) -> None:
    model = copy_model(trained)
    model.head = torch.nn.Linear(model.embedding_dim, 4)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    target = Target(toy_user()[0], L)
    for share, expected in ((1.0, True), (1.0001, False)):
        assert recovered(model, target, SAFETY.model_copy(update={"recovered_share": share})) is expected


@pytest.mark.parametrize("config", [SAFETY, None])
def test_electrodes_that_are_no_ring_are_never_turned(
    config: SafetyConfig | None, trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = start(Stub(trained, advantage=0.9, missing_turned=3), monkeypatch, config=config, ring=False)
    assert (result.decision, result.rotation) == ("personalized", 0)
    assert not differing(weights(result.model), weights(trained))


@pytest.mark.parametrize(("advantage", "turned"), [(0.02, False), (0.05, True)])
def test_without_a_safety_setting_both_stages_always_run_and_only_the_margin_counts(
    advantage: float, turned: bool, trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = start(Stub(trained, advantage, missing=3, missing_turned=3), monkeypatch, config=None)
    assert result.decision == "personalized"
    assert result.rotation == (TURN if turned else 0)
    assert result.log == {"rotation": result.rotation}
    assert not differing(weights(result.model), weights(rotated(trained, result.rotation, toy_user()[0])))
    assert result.model is not trained


@pytest.mark.parametrize(
    ("without", "turned", "decision", "rotation"),
    [((), 0, "personalized", 0), ((), 1, "personalized", 3), ((1,), 0, "guarded", 0), ((1, 2), 0, "source", 0)],
)
def test_on_real_scores_the_toy_user_is_read_right_and_the_source_model_stays(
    without: tuple[int, ...], turned: int, decision: str, rotation: int, trained: Backbone
) -> None:
    before = weights(trained)
    target = Target(toy_user(without=without, turned=turned)[0], L, True)
    result = begin(trained, target, ROTATION, SAFETY)
    assert (result.decision, result.rotation) == (decision, rotation)
    assert [p < SAFETY.seen_probability for p in result.log["best"]] == [k in without for k in range(CLASSES)]
    assert not differing(before, weights(trained))
    assert not trained.training
    assert all(p.requires_grad for m in (trained, result.model) for p in m.parameters())


def test_even_shares_are_told_from_uneven_ones(trained: Backbone) -> None:
    windows, gestures = toy_user()
    rare = torch.nonzero((gestures != 1) | (torch.arange(len(gestures)) % 5 == 0)).flatten()
    for chosen, even in ((torch.arange(len(gestures)), True), (rare, False)):
        result = begin(trained, Target(windows.subset(chosen), L), None, SAFETY)
        assert (result.decision, result.even) == ("personalized", even)
    assert not begin(trained, Target(toy_user(without=(1,))[0], L), None, SAFETY).even


def test_shares_are_judged_with_the_turned_armband_turned_back(trained: Backbone) -> None:
    target = Target(toy_user(turned=1)[0], L, True)
    assert evenness(trained, target) < SAFETY.even_entropy - 0.05
    result = begin(trained, target, ROTATION, SAFETY)
    assert result.log["evenness"] == pytest.approx(evenness(result.model, target), abs=1e-4)
    assert result.even
