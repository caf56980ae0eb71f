from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from emgup_model.backbones import Backbone
from emgup_model.config import parse
from emgup_model.errors import ConfigError
from emgup_model.methods.base import copy_model
from emgup_model.methods.ssa import ContextNetwork, Predictor, SsaConfig, contrastive_loss, info_nce, run_ssa
from tests.model.methods.toys import toy_target


class SpyContext(torch.nn.Module):
    """Stands in for g: notes which step indices it was shown, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        self.seen.append(z[0, :, 0].round().int().tolist())
        return z[:, -1]


class SpyHeads(torch.nn.Module):
    """Stands in for W: predicts given latents."""

    def __init__(self, *answers: torch.Tensor) -> None:
        super().__init__()
        self.answers = list(answers)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        return self.answers.pop(0)


def test_contexts_and_targets_have_the_indices_of_the_method() -> None:
    """A7-A8: c = g(z_1..z_T), c' = g(z'_{K+1}..z'_L); c' predicts z_{T+k}, c predicts z'_k; here z_t = t."""
    L, K = 8, 3
    t = torch.arange(1.0, L + 1).view(1, L, 1)
    z, z2 = t.expand(1, L, 4), t.flip(1).expand(1, L, 4)
    g = SpyContext()
    heads = SpyHeads(torch.zeros(1, K, 4), torch.zeros(1, K, 4))
    contrastive_loss(z, z2, g, heads, SsaConfig(future_windows=K))  # type: ignore[arg-type]
    assert g.seen == [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]


def test_perfect_predictions_of_the_right_steps_give_the_smallest_loss() -> None:
    torch.manual_seed(0)
    B, L, K, d = 3, 8, 3, 64
    z = F.normalize(torch.randn(B, L, d), dim=-1)
    z2 = z.flip(1)
    config = SsaConfig(future_windows=K, temperature=0.02)
    right = contrastive_loss(z, z2, SpyContext(), SpyHeads(z[:, L - K :], z2[:, :K]), config)  # type: ignore[arg-type]
    wrong = contrastive_loss(z, z2, SpyContext(), SpyHeads(z2[:, :K], z[:, L - K :]), config)  # type: ignore[arg-type]
    assert float(right) < 1e-6
    assert float(wrong) > 1


@pytest.mark.parametrize(("candidates", "count"), [("all", 24), ("other_sequences", 17)])
def test_both_directions_choose_among_the_same_candidates(candidates: str, count: int) -> None:
    """All 3 · 8 latents of the view, or the true one and the 2 · 8 of other sequences."""
    z = F.normalize(torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    nothing = SpyHeads(torch.zeros(3, 2, 16), torch.zeros(3, 2, 16))
    config = SsaConfig(future_windows=2, candidates=candidates)  # type: ignore[arg-type]
    loss = contrastive_loss(z, z.flip(1), SpyContext(), nothing, config)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(math.log(count), abs=1e-5)


def test_uninformative_predictions_cost_log_of_the_number_of_candidates() -> None:
    latents = F.normalize(torch.randn(5, 20, 16), dim=-1)
    loss = info_nce(torch.zeros(5, 3, 16), latents, torch.arange(17, 20), 1.0)
    assert float(loss) == pytest.approx(math.log(100), abs=1e-5)


def test_info_nce_equals_the_formula_written_out() -> None:
    torch.manual_seed(1)
    latents = F.normalize(torch.randn(2, 4, 6), dim=-1)
    predicted = torch.randn(2, 2, 6)
    steps = torch.tensor([2, 3])
    terms = []
    for b in range(2):
        for k in range(2):
            sims = [
                F.cosine_similarity(predicted[b, k], latents[i, j], dim=0) / 0.5 for i in range(2) for j in range(4)
            ]
            positive = sims[b * 4 + int(steps[k])]
            terms.append(-(positive - torch.logsumexp(torch.stack(sims), 0)))
    assert float(info_nce(predicted, latents, steps, 0.5)) == pytest.approx(float(torch.stack(terms).mean()), abs=1e-5)


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


def test_the_context_network_is_causal() -> None:
    torch.manual_seed(0)
    g = ContextNetwork(16, 20, SsaConfig(heads=4)).eval()
    z = torch.randn(2, 10, 16)
    longer = torch.cat([z, torch.randn(2, 1, 16)], 1)
    full = g.encoder(longer + g.positions[:11], mask=torch.nn.Transformer.generate_square_subsequent_mask(11))
    assert torch.allclose(g(z), full[:, 9], atol=1e-5)


def test_auxiliary_sizes_are_those_of_the_method_at_d_128() -> None:
    g, w = ContextNetwork(128, 20, SsaConfig()), Predictor(128, 3, 0.1)
    assert sum(p.numel() for p in g.parameters()) == pytest.approx(0.60e6, rel=0.02)
    assert sum(p.numel() for p in w.parameters()) == pytest.approx(0.40e6, rel=0.02)


def test_betas_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ConfigError, match="betas"):
        parse(SsaConfig, {"betas": [0.5, 1.5]}, "x")


def test_ssa_compares_directions_the_length_of_an_embedding_does_not_matter(trained: Backbone) -> None:
    longer = copy_model(trained)
    with torch.no_grad():  # the last layer before a ReLU: embeddings become four times as long
        longer.get_parameter("norm.weight").mul_(4)
        longer.get_parameter("norm.bias").mul_(4)
    losses = []
    for model in (copy_model(trained), longer):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        config = SsaConfig(epochs=1)
        log = run_ssa(model, toy_target(), config, frozen_bn=True, gradients=False, generator=generator)
        losses.append(log["loss"][0])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
