"""Pseudo-labels follow the clusters, the held gestures and, where asked, the user's own class prior."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emgup_model.methods.held import held_posterior
from emgup_model.methods.refined_labels import FEWEST, UNIFORM_SHARE, LabelConfig, _prototype_votes, refine
from tests.model.methods.toys import grid


def two_clusters() -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (40, 2) of two tight clusters, and logits whose border cuts a quarter off the first."""
    z = torch.tensor([[3.0, 0.2]] * 20 + [[0.2, 3.0]] * 20)
    logits = torch.tensor([[2.0, 0.0]] * 15 + [[0.0, 0.6]] * 5 + [[0.0, 2.0]] * 20)
    return z, logits


def confident(*counts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Separate embeddings and clear logits for so many windows of each gesture."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    one_hot = torch.nn.functional.one_hot(y, len(counts)).float()
    return 4 * one_hot, 9 * one_hot


def test_clusters_overrule_the_classifiers_border() -> None:
    z, logits = two_clusters()
    alone = grid(*[1] * 40)  # no neighbours: held gestures cannot help
    by_classifier = refine(z, logits, alone, LabelConfig(prototype_weight=0)).posterior.argmax(1)
    refined = refine(z, logits, alone, LabelConfig()).posterior.argmax(1)
    assert by_classifier.tolist() == [0] * 15 + [1] * 25
    assert refined.tolist() == [0] * 20 + [1] * 20


def test_held_gestures_overrule_single_windows() -> None:
    z = torch.ones(10, 2)  # embeddings that say nothing
    logits = torch.tensor([[1.0, 0]] * 4 + [[0, 1.0]] + [[1.0, 0]] * 5)
    labels = refine(z, logits, grid(10), LabelConfig(stay=0.9)).posterior.argmax(1)
    assert labels.tolist() == [0] * 10


def test_without_rounds_the_labels_are_the_held_classifier_at_its_temperature() -> None:
    torch.manual_seed(0)
    z, logits, windows = torch.rand(12, 4), 3 * torch.randn(12, 3), grid(5, 7)
    config = LabelConfig(rounds=0, temperature=2.0, stay=0.8)
    expected = held_posterior((logits / 2).log_softmax(1), windows, 0.8, torch.full((3,), 1 / 3))
    assert torch.allclose(refine(z, logits, windows, config).posterior, expected, atol=1e-6)
    no_memory = LabelConfig(rounds=0, temperature=2.0, stay=0.0)
    assert torch.allclose(refine(z, logits, windows, no_memory).posterior, (logits / 2).softmax(1), atol=1e-6)


def test_the_estimated_prior_follows_the_data_and_the_uniform_one_does_not() -> None:
    z, logits = confident(60, 20, 0)
    windows = grid(60, 20)
    estimated = refine(z, logits, windows, LabelConfig(prior="estimated"))
    shares = torch.tensor([0.75, 0.25, 0.0])
    assert torch.allclose(estimated.mass, shares, atol=0.01)
    assert torch.allclose(estimated.prior, (1 - UNIFORM_SHARE) * shares + UNIFORM_SHARE / 3, atol=0.01)
    uniform = refine(z, logits, windows, LabelConfig(prior="uniform"))
    assert uniform.prior.tolist() == pytest.approx([1 / 3] * 3)
    assert torch.allclose(uniform.mass, shares, atol=0.01)


def test_the_estimated_prior_decides_about_windows_that_tell_nothing() -> None:
    z, logits = confident(60, 10)
    z, logits = torch.cat([z, torch.full((1, 2), 2.0)]), torch.cat([logits, torch.zeros(1, 2)])
    windows = grid(60, 10, 1)
    votes = {
        prior: float(refine(z, logits, windows, LabelConfig(prior=prior, prototype_weight=0)).posterior[-1, 0])
        for prior in ("uniform", "estimated")
    }
    assert votes["uniform"] == pytest.approx(0.5, abs=0.01)
    assert votes["estimated"] > 0.75


@pytest.mark.parametrize(("given", "has_prototype"), [(0.0, False), (2.5, False), (3.0, True), (9.0, True)])
def test_a_class_given_fewer_than_three_windows_has_no_prototype(given: float, has_prototype: bool) -> None:
    assert FEWEST == 3
    directions = torch.nn.functional.normalize(torch.rand(30, 4), dim=1)
    posterior = torch.zeros(30, 2)
    posterior[:10, 1] = (given - torch.arange(10)).clamp(0, 1)
    posterior[:, 0] = 1 - posterior[:, 1]
    votes = _prototype_votes(directions, posterior, 0.1)
    assert bool((votes[:, 1] > -10).all()) is has_prototype
    assert bool((votes[:, 1] == -30).all()) is not has_prototype
    assert bool((votes >= -30).all())


def test_a_prototype_votes_by_cosine_over_its_temperature() -> None:
    directions = torch.eye(2).repeat_interleave(5, 0)
    posterior = directions.clone()
    votes = _prototype_votes(directions, posterior, 0.25)
    assert torch.allclose(votes[0], torch.tensor([4.0, 0.0]).log_softmax(0), atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_classifier_and_prototypes_share_the_vote_by_weight(weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z, logits = torch.rand(20, 4, generator=generator), 2 * torch.randn(20, 3, generator=generator)
    windows, uniform = grid(8, 12), torch.full((3,), 1 / 3)
    directions = torch.nn.functional.normalize(torch.cat([z, torch.ones(20, 1)], 1), dim=1)
    start = held_posterior(logits.log_softmax(1), windows, 0.6, uniform)
    votes = _prototype_votes(directions, start, 0.2)
    expected = held_posterior((1 - weight) * logits.log_softmax(1) + weight * votes, windows, 0.6, uniform)
    config = LabelConfig(rounds=1, stay=0.6, prototype_weight=weight, prototype_temperature=0.2)
    assert torch.allclose(refine(z, logits, windows, config).posterior, expected, atol=1e-6)


def test_a_gesture_that_nobody_does_is_given_next_to_nothing() -> None:
    z, logits = confident(30, 30, 0)
    assert float(refine(z, logits / 9, grid(30, 30), LabelConfig()).mass[2]) < 0.01


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
    st.integers(2, 4),
    st.builds(
        LabelConfig,
        temperature=st.floats(0.2, 4),
        stay=st.floats(0, 0.99),
        prototype_weight=st.floats(0, 1),
        rounds=st.integers(0, 3),
        prior=st.sampled_from(["uniform", "estimated"]),
    ),
    st.integers(0, 99),
)
def test_rows_prior_and_mass_are_distributions(sizes: list[int], classes: int, config: LabelConfig, seed: int) -> None:
    windows, generator = grid(*sizes), torch.Generator().manual_seed(seed)
    z = torch.rand(len(windows), 5, generator=generator)
    logits = 4 * torch.randn(len(windows), classes, generator=generator)
    labels = refine(z, logits, windows, config)
    assert torch.allclose(labels.posterior.sum(1), torch.ones(len(windows)), atol=1e-5)
    for share in (labels.prior, labels.mass):
        assert float(share.sum()) == pytest.approx(1, abs=1e-5)
    assert bool((labels.posterior >= 0).all())
    assert bool((labels.prior > 0).all())
    assert torch.allclose(labels.mass, labels.posterior.mean(0))
