"""Every term of the objective against its formula, and what its switches leave alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emgup_model.methods.objective import ObjectiveConfig, objective

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
        assert float(objective(logits, labels, PRIOR, config)) == pytest.approx(float(expected), abs=1e-5)


def test_diversity_is_zero_at_the_prior_and_log_k_where_one_gesture_takes_all() -> None:
    labels, uniform = torch.full((6, 3), 1 / 3), torch.full((3,), 1 / 3)
    config = only(diversity_weight=1)
    at_prior = PRIOR.log().expand(6, 3)
    clear = 40 * F.one_hot(torch.tensor([0, 0, 0, 1, 1, 2]), 3).float()  # each clear, together 3 : 2 : 1
    collapsed = 40 * F.one_hot(torch.zeros(6, dtype=torch.long), 3).float()
    assert float(objective(at_prior, labels, PRIOR, config)) == pytest.approx(0, abs=1e-6)
    assert float(objective(clear, labels, torch.tensor([3, 2, 1]) / 6, config)) == pytest.approx(0, abs=1e-6)
    assert float(objective(collapsed, labels, uniform, config)) == pytest.approx(math.log(3), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99))
def test_diversity_is_never_negative(classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, classes, generator=generator)
    prior = torch.rand(classes, generator=generator).softmax(0)
    assert float(objective(logits, logits.softmax(1), prior, only(diversity_weight=1))) > -1e-5
