from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from emgup_model.config import parse
from emgup_model.data.windows import WindowedUser
from emgup_model.errors import ConfigError
from emgup_model.methods import parse_method
from emgup_model.methods.emgup import EmgupConfig
from emgup_model.methods.refined import (
    RefinedSspConfig,
    estimate_prior,
    refined_labels,
    regularised_loss,
    smooth,
)
from emgup_model.methods.ssa import info_nce
from emgup_model.methods.ssp import SspConfig


def windows(*lengths: int) -> WindowedUser:
    recording = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    position = torch.cat([torch.arange(n) for n in lengths])
    return WindowedUser(torch.zeros(1, 9), position, recording, position, ("r",) * len(lengths), 1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 6), st.integers(0, 99))
def test_smoothing_is_the_geometric_mean_inside_a_recording(lengths: list[int], reach: int, seed: int) -> None:
    user = windows(*lengths)
    p = torch.rand(len(user), 3, generator=torch.Generator().manual_seed(seed)).softmax(1).double()
    out = smooth(p, user, reach, floor=0.0)
    for i in range(len(user)):
        near = (user.recording == user.recording[i]) & ((user.position - user.position[i]).abs() <= reach)
        expected = p[near].log().mean(0).softmax(0)
        assert torch.allclose(out[i], expected, atol=1e-9)


def test_one_confident_mistake_does_not_outvote_its_neighbours() -> None:
    p = torch.tensor([[0.9, 0.1]] * 4 + [[0.0, 1.0]] + [[0.9, 0.1]] * 4)
    assert smooth(p, windows(9), 4).argmax(1).tolist() == [0] * 9


@pytest.mark.parametrize("true", [[0.6, 0.2, 0.2], [0.9, 0.05, 0.05], [0.5, 0.5, 0.0], [1 / 3] * 3])
def test_em_finds_the_class_prior_of_calibrated_posteriors(true: list[float]) -> None:
    generator = torch.Generator().manual_seed(0)
    prior = torch.tensor(true)
    y = torch.multinomial(prior, 20_000, replacement=True, generator=generator)
    x = y + 0.4 * torch.randn(20_000, generator=generator)
    posterior = (-((x[:, None] - torch.arange(3.0)) ** 2) / (2 * 0.4**2)).softmax(1)
    assert torch.allclose(estimate_prior(posterior), prior, atol=0.02)


def test_labels_of_a_recording_agree_and_follow_the_clusters() -> None:
    user = windows(10, 10)
    z = torch.cat([torch.tensor([[5.0, 0]]).repeat(10, 1), torch.tensor([[0, 5.0]]).repeat(10, 1)])
    p = torch.tensor([[0.7, 0.3]] * 7 + [[0.4, 0.6]] * 3 + [[0.2, 0.8]] * 10)
    labels, prior = refined_labels(z, p, user, RefinedSspConfig(smoothing_windows=5))
    assert labels.tolist() == [0] * 10 + [1] * 10
    assert prior.tolist() == [0.5, 0.5]


def test_the_loss_is_the_sum_of_its_parts() -> None:
    torch.manual_seed(0)
    logits, labels, prior = torch.randn(8, 3), torch.randint(0, 3, (8,)), torch.tensor([0.5, 0.3, 0.2])
    p = logits.softmax(1)
    ce = F.cross_entropy(logits, labels)
    h = -(p * p.log()).sum(1).mean()
    kl = (p.mean(0) * (p.mean(0) / prior).log()).sum()
    config = RefinedSspConfig(label_weight=2.0, entropy_weight=3.0, diversity_weight=5.0)
    assert float(regularised_loss(logits, labels, prior, config)) == pytest.approx(float(2 * ce + 3 * h + 5 * kl))


def test_with_a_uniform_prior_the_divergence_is_log_k_minus_the_marginal_entropy() -> None:
    config = RefinedSspConfig(label_weight=0, entropy_weight=0, diversity_weight=1)
    logits = 30 * F.one_hot(torch.zeros(6, dtype=torch.long), 4).float()
    loss = regularised_loss(logits, torch.zeros(6, dtype=torch.long), torch.full((4,), 0.25), config)
    assert float(loss) == pytest.approx(math.log(4), abs=1e-4)


def test_candidates_of_other_sequences_leave_out_the_own_sequence_but_not_the_true_latent() -> None:
    torch.manual_seed(1)
    latents = F.normalize(torch.randn(3, 4, 6), dim=-1)
    predicted, steps = torch.randn(3, 2, 6), torch.tensor([2, 3])
    terms = []
    for b in range(3):
        for k in range(2):
            true = F.cosine_similarity(predicted[b, k], latents[b, int(steps[k])], dim=0)
            others = [
                F.cosine_similarity(predicted[b, k], latents[i, j], dim=0) for i in range(3) for j in range(4) if i != b
            ]
            terms.append(torch.logsumexp(torch.stack([true, *others]), 0) - true)
    loss = info_nce(predicted, latents, steps, 1.0, other_only=True)
    assert float(loss) == pytest.approx(float(torch.stack(terms).mean()), abs=1e-5)


def test_the_second_stage_is_chosen_by_kind_and_published_by_default() -> None:
    assert isinstance(parse(EmgupConfig, {"ssp": {"epochs": 3}}, "x").ssp, SspConfig)
    assert isinstance(parse(EmgupConfig, {"ssp": {"kind": "refined"}}, "x").ssp, RefinedSspConfig)
    for wrong in ({"kind": "magic"}, {"kind": "refined", "confidence": 0.8}, {"smoothing_windows": 3}):
        with pytest.raises(ConfigError):
            parse_method({"kind": "emgup", "ssp": wrong}, "x")
