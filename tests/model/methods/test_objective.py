"""Every term of the objective against its formula, and what its switches leave alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emgup_model.methods.objective import ObjectiveConfig, objective

ALL = torch.ones(3, dtype=torch.bool)
PRIOR = torch.tensor([0.5, 0.3, 0.2])
ONLY = {"label_weight": 0.0, "entropy_weight": 0.0, "diversity_weight": 0.0}


def only(**terms: float) -> ObjectiveConfig:
    return ObjectiveConfig.model_validate(ONLY | terms)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, generator=generator), (2 * torch.randn(8, 3, generator=generator)).softmax(1)


def test_each_term_is_its_formula_and_the_loss_their_weighted_sum(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    p = logits.softmax(1)
    ce = -(labels * p.log()).sum(1).mean()
    h = -(p * p.log()).sum(1).mean()
    kl = (p.mean(0) * (p.mean(0) / PRIOR).log()).sum()
    for config, expected in (
        (only(label_weight=1), F.cross_entropy(logits, labels)),
        (only(label_weight=1), ce),
        (only(entropy_weight=1), h),
        (only(diversity_weight=1), kl),
        (ObjectiveConfig(label_weight=2, entropy_weight=3, diversity_weight=5), 2 * ce + 3 * h + 5 * kl),
        (only(), torch.tensor(0.0)),
    ):
        assert float(objective(logits, labels, PRIOR, ALL, config)) == pytest.approx(float(expected), abs=1e-5)


def test_diversity_is_zero_at_the_prior_and_log_k_where_one_gesture_takes_all() -> None:
    labels, uniform = torch.full((6, 3), 1 / 3), torch.full((3,), 1 / 3)
    config = only(diversity_weight=1)
    at_prior = PRIOR.log().expand(6, 3)
    clear = 40 * F.one_hot(torch.tensor([0, 0, 0, 1, 1, 2]), 3).float()  # each clear, together 3 : 2 : 1
    collapsed = 40 * F.one_hot(torch.zeros(6, dtype=torch.long), 3).float()
    assert float(objective(at_prior, labels, PRIOR, ALL, config)) == pytest.approx(0, abs=1e-6)
    assert float(objective(clear, labels, torch.tensor([3, 2, 1]) / 6, ALL, config)) == pytest.approx(0, abs=1e-6)
    assert float(objective(collapsed, labels, uniform, ALL, config)) == pytest.approx(math.log(3), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99))
def test_diversity_is_never_negative(classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, classes, generator=generator)
    prior = torch.rand(classes, generator=generator).softmax(0)
    seen = torch.ones(classes, dtype=torch.bool)
    assert float(objective(logits, logits.softmax(1), prior, seen, only(diversity_weight=1))) > -1e-5


def test_confidence_ignores_weak_labels(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    strong = labels.amax(1) > 0.8
    assert 0 < int(strong.sum()) < len(strong)
    logits.requires_grad_(True)
    loss = objective(logits, labels, PRIOR, ALL, only(label_weight=1, confidence=0.8))
    expected = F.cross_entropy(logits[strong], labels[strong])
    assert torch.allclose(loss, expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool((gradient[~strong] == 0).all())
    assert bool((gradient[strong] != 0).any(1).all())


def test_a_batch_without_one_confident_label_has_no_label_term(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, _ = batch
    weak = torch.full((8, 3), 1 / 3)
    assert float(objective(logits, weak, PRIOR, ALL, only(label_weight=1, confidence=0.5))) == 0
    rest = ObjectiveConfig(confidence=0.5)
    without = rest.model_copy(update={"label_weight": 0.0})
    assert float(objective(logits, weak, PRIOR, ALL, rest)) == float(objective(logits, weak, PRIOR, ALL, without))


@pytest.mark.parametrize("term", ["label_weight", "entropy_weight", "diversity_weight"])
def test_seen_only_leaves_the_unseen_logits_without_gradient(
    term: str, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    logits, labels = batch
    seen = torch.tensor([True, False, True])
    gradient = {}
    for seen_only in (True, False):
        among = seen if seen_only else None
        x = logits.clone().requires_grad_(True)
        objective(x, labels, PRIOR, among, only(**{term: 1.0})).backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        gradient[seen_only] = x.grad
    assert bool((gradient[True][:, 1] == 0).all())
    assert bool((gradient[True][:, 0] != 0).any())
    assert bool((gradient[False][:, 1] != 0).any())


def test_seen_only_is_the_same_objective_on_the_seen_gestures_alone(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    seen = torch.tensor([True, False, True])
    labels = labels * torch.tensor([1.0, 0.0, 1.0]) + 1e-6  # no window is labelled with the unseen gesture
    labels = labels / labels.sum(1, keepdim=True)
    few_labels, few_prior = labels[:, seen], PRIOR[seen]
    weights = {"label_weight": 2.0, "entropy_weight": 3.0, "diversity_weight": 5.0}
    among_seen = objective(
        logits[:, seen],
        few_labels / few_labels.sum(1, keepdim=True),
        few_prior / few_prior.sum(),
        torch.ones(2, dtype=torch.bool),
        only(**weights),
    )
    masked = objective(logits, labels, PRIOR, seen, only(**weights))
    assert float(masked) == pytest.approx(float(among_seen), abs=1e-4)


def test_where_no_gesture_is_seen_the_loss_stays_finite_and_moves_nothing(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, labels = batch
    logits.requires_grad_(True)
    loss = objective(logits, labels, PRIOR, ~ALL, ObjectiveConfig())
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(loss))
    assert logits.grad is not None
    assert bool((logits.grad == 0).all())


def test_a_label_on_an_unseen_gesture_is_no_label_for_the_others() -> None:
    labels = torch.tensor([[0.02, 0.98, 0.0], [0.96, 0.0, 0.04]])
    seen = torch.tensor([True, False, True])
    logits = torch.zeros(2, 3, requires_grad=True)
    config = only(label_weight=1.0, confidence=0.95)
    objective(logits, labels, PRIOR, seen, config).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool((logits.grad[0] == 0).all())
    assert bool((logits.grad[1] != 0).any())
