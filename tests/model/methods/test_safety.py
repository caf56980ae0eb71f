"""The decision how far to go, with stubbed scores rule by rule, and once for real."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from emgup_model.backbones import Backbone
from emgup_model.methods import safety
from emgup_model.methods.alignment import GainConfig, RotationConfig, rotated
from emgup_model.methods.base import Target
from emgup_model.methods.safety import SafetyConfig, Start, begin
from tests.model.methods.toys import CHANNELS, CLASSES, L, differing, toy_user, weights

ROTATION = RotationConfig(margin=0.03, uncertain_margin=0.07)
SAFETY = SafetyConfig()
TURN = 3


def mass(missing: int) -> list[float]:
    """Shares of the gestures of which so many are given nothing."""
    return [0.0] * missing + [1 / (CLASSES - missing) if missing < CLASSES else 0.0] * (CLASSES - missing)


@dataclass
class Stub:
    """Scores as planted: what each rotation is worth, and which gestures are missing before and after it."""

    source: Backbone
    advantage: float = 0.0
    missing: int = 0
    missing_turned: int = 0
    fits: list[tuple[str, bool]] = field(default_factory=list)

    def rotation_scores(self, model: Backbone, windows: object) -> torch.Tensor:
        scores = torch.full((CHANNELS,), 0.1)
        scores[0], scores[TURN] = 0.5, 0.5 + self.advantage
        return scores

    def fit_gains(self, model: Backbone, target: Target, config: GainConfig, generator: object) -> dict[str, Any]:
        turned = bool(differing(weights(model), weights(self.source)))
        self.fits.append(("gentle" if config is SAFETY.gentle else "probe", turned))
        model.mix_channels(2 * torch.eye(CHANNELS))
        return {"gains": [2.0] * CHANNELS, "mass": mass(self.missing_turned if turned else self.missing)}


def start(
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
    rotation: RotationConfig | None = ROTATION,
    config: SafetyConfig | None = SAFETY,
    ring: bool = True,
) -> Start:
    monkeypatch.setattr(safety, "rotation_scores", stub.rotation_scores)
    monkeypatch.setattr(safety, "fit_gains", stub.fit_gains)
    return begin(stub.source, Target(toy_user()[0], L, ring), rotation, config, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("missing", "allowed", "decision"),
    [
        (0, 0, "personalized"),
        (1, 0, "gains"),
        (2, 0, "source"),
        (3, 0, "source"),
        (1, 1, "personalized"),
        (2, 1, "source"),
        (2, 2, "personalized"),
    ],
)
def test_the_decision_is_by_the_number_of_missing_gestures(
    missing: int, allowed: int, decision: str, trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Stub(trained, missing=missing)
    config = SAFETY.model_copy(update={"tolerated_share": (allowed + 0.1) / CLASSES})
    result = start(stub, monkeypatch, config=config)
    assert result.decision == decision
    assert result.log["mass"] == mass(missing)
    assert stub.fits == [("probe", False)] + [("gentle", False)] * (decision == "gains")
    assert ("gentle" in result.log) == (decision == "gains")


def test_a_gesture_is_missing_below_its_share_of_an_even_part(
    trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    border = SAFETY.missing_share / CLASSES
    for share, decision in ((border + 1e-3, "personalized"), (border - 1e-3, "gains")):
        stub = Stub(trained)
        given = {"gains": [1.0] * CHANNELS, "mass": [share, 0.5, 0.5 - share]}
        monkeypatch.setattr(stub, "fit_gains", lambda *_, given=given: given)
        assert start(stub, monkeypatch).decision == decision


def test_only_gains_change_what_the_middle_way_keeps_and_the_source_answer_keeps_all(
    trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for missing, changed in ((0, set()), (1, {"blocks.0.weight"}), (2, set())):
        result = start(Stub(trained, missing=missing), monkeypatch)
        assert result.model is not trained
        assert differing(weights(result.model), weights(trained)) == changed


@pytest.mark.parametrize(
    ("advantage", "missing", "missing_turned", "turned", "decision"),
    [
        (0.02, 0, 0, False, "personalized"),  # below the margin
        (0.05, 0, 0, True, "personalized"),
        (0.05, 1, 0, False, "gains"),  # gestures seem missing: the larger margin counts
        (0.08, 1, 0, True, "personalized"),  # the rotation brings them back
        (0.08, 2, 0, True, "personalized"),
        (0.08, 1, 1, False, "gains"),  # it does not
        (0.08, 2, 1, False, "source"),  # nor does bringing some of them back do
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
    assert result.log["rotation"] == (TURN if turned else 0)
    assert result.log["best_rotation"] == (TURN if advantage else 0)
    assert result.log["advantage"] == pytest.approx(advantage, abs=1e-4)
    assert result.log["mass"] == mass(missing_turned if turned else missing)
    if decision != "gains":
        kept = rotated(trained, TURN if turned else 0, toy_user()[0])
        assert differing(weights(result.model), weights(kept)) == set()


def test_without_a_rotation_setting_nothing_is_turned(trained: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(trained, advantage=0.9)
    result = start(stub, monkeypatch, rotation=None)
    assert (result.decision, result.log) == ("personalized", {"mass": mass(0), "rotation": 0})
    assert differing(weights(result.model), weights(trained)) == set()


@pytest.mark.parametrize("config", [SAFETY, None])
def test_electrodes_that_are_no_ring_are_never_turned(
    config: SafetyConfig | None, trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = start(Stub(trained, advantage=0.9, missing_turned=3), monkeypatch, config=config, ring=False)
    assert result.decision == "personalized"
    assert result.log.get("rotation", 0) == 0
    assert differing(weights(result.model), weights(trained)) == set()


@pytest.mark.parametrize(("advantage", "turned"), [(0.02, False), (0.05, True)])
def test_without_a_safety_setting_both_stages_always_run_and_only_the_margin_counts(
    advantage: float, turned: bool, trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = Stub(trained, advantage, missing=3, missing_turned=3)
    result = start(stub, monkeypatch, config=None)
    assert result.decision == "personalized"
    assert stub.fits == []
    kept = rotated(trained, TURN if turned else 0, toy_user()[0])
    assert differing(weights(result.model), weights(kept)) == set()
    assert result.model is not trained


def test_without_any_setting_the_start_is_a_copy_of_the_source(
    trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    result = begin(trained, Target(toy_user()[0], L, True), None, None, generator)
    assert (result.decision, result.log) == ("personalized", {})
    assert result.model is not trained
    assert differing(weights(result.model), weights(trained)) == set()
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("without", "turned", "decision", "rotation"),
    [((), 0, "personalized", 0), ((), 1, "personalized", 3), ((1,), 0, "gains", 0), ((1, 2), 0, "source", 0)],
)
def test_on_real_scores_the_toy_user_is_read_right_and_the_source_model_stays(
    without: tuple[int, ...], turned: int, decision: str, rotation: int, trained: Backbone
) -> None:
    before = weights(trained)
    target = Target(toy_user(without=without, turned=turned)[0], L, True)
    result = begin(trained, target, ROTATION, SAFETY, torch.Generator().manual_seed(0))
    assert (result.decision, result.log["rotation"]) == (decision, rotation)
    assert [m < 0.02 for m in result.log["mass"]] == [k in without for k in range(CLASSES)]
    assert differing(before, weights(trained)) == set()
    assert not trained.training
    assert all(p.requires_grad for m in (trained, result.model) for p in m.parameters())
    assert all(p.grad is None for p in trained.parameters())
    if decision == "gains":
        scaled = before["blocks.0.weight"] * torch.tensor(result.log["gentle"]["gains"]).view(1, CHANNELS, 1, 1)
        assert torch.allclose(result.model.get_parameter("blocks.0.weight"), scaled, atol=1e-4)
        assert all(abs(math.log(g)) < 0.2 for g in result.log["gentle"]["gains"])


def test_a_rotation_that_makes_gestures_disappear_is_not_taken(
    trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = start(Stub(trained, advantage=0.5, missing=0, missing_turned=2), monkeypatch)
    assert result.decision == "personalized"
    assert result.log["rotation"] == 0
    assert not differing(weights(result.model), weights(trained))


@pytest.mark.parametrize(("classes", "tolerated"), [(2, 0), (3, 0), (4, 0), (5, 1), (7, 1), (10, 2), (11, 2), (29, 5)])
def test_a_fifth_of_the_gestures_may_seem_missing(classes: int, tolerated: int) -> None:
    assert SAFETY.tolerated(classes) == tolerated
