from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from emgup_model.backbones import Backbone, CnnConfig, build_backbone
from emgup_model.methods import AdaBnConfig, TentConfig, adapt, nrc
from emgup_model.methods.base import batch_norms, embed_all
from emgup_model.methods.information import entropy, marginal_entropy
from emgup_model.methods.nrc import NrcConfig, nearest, neighbour_loss
from emgup_model.methods.shot import prototype_labels
from emgup_model.methods.tent import norm_parameters
from tests.model.methods.test_adapt import target
from tests.model.methods.toys import toy_target


def test_entropies_at_their_bounds() -> None:
    assert entropy(torch.zeros(3, 7)).tolist() == pytest.approx([math.log(7)] * 3)
    assert float(entropy(torch.tensor([[50.0, 0, 0]]))) == pytest.approx(0, abs=1e-6)
    split = 50 * F.one_hot(torch.tensor([0, 1]), 2).float()
    assert float(marginal_entropy(split)) == pytest.approx(math.log(2), abs=1e-5)


def test_prototypes_correct_a_wrong_prediction_inside_a_cluster() -> None:
    z = torch.tensor([[1.0, 0], [1, 0.1], [1, 0.05], [0, 1], [0.1, 1], [0.05, 1]]) * 5
    p = torch.full((6, 2), 0.1)
    p[:3, 0] = p[3:, 1] = 0.9
    p[2] = torch.tensor([0.4, 0.6])
    assert prototype_labels(z, p).tolist() == [0, 0, 0, 1, 1, 1]


def test_prototypes_never_name_a_gesture_nobody_predicts() -> None:
    p = torch.zeros(6, 3)
    p[:, 0], p[::2, 1] = 0.5, 0.5
    assert 2 not in prototype_labels(torch.randn(6, 4), p).tolist()
    clusters = torch.tensor([[0.0, 1], [1, 0]]).repeat(3, 1)
    assert prototype_labels(5 * clusters, p).tolist() == [1, 0] * 3  # the others keep their clusters


def test_neighbours_in_time_and_oneself_are_left_out() -> None:
    user = target(40)
    near = nearest(F.normalize(torch.randn(40, 4), dim=1), user, NrcConfig(exclude_windows=3))
    w = user.windows
    for i, row in enumerate(near.tolist()):
        assert i not in row
        for j in row:
            assert w.recording[i] != w.recording[j] or abs(int(w.position[i] - w.position[j])) > 3


def test_the_neighbour_loss_equals_the_sums_written_out() -> None:
    torch.manual_seed(0)
    config = NrcConfig(neighbours=2, expanded=2, weak_weight=0.1)
    near = torch.tensor([[1, 2], [0, 2], [3, 1], [2, 0]])
    bank = torch.rand(4, 3)
    p = torch.rand(2, 3)
    index = torch.tensor([0, 2])
    total = 0.0
    for b, i in enumerate(index.tolist()):
        for k in near[i].tolist():
            weight = 1.0 if i in near[k].tolist() else 0.1
            total += weight * float(bank[k] @ p[b])
            total += sum(0.1 * float(bank[m] @ p[b]) for m in near[k].tolist())
        total += float(p[b] @ p[b])
    assert float(neighbour_loss(p, index, near, bank, config)) == pytest.approx(-total / 2, abs=1e-5)


def test_tent_moves_the_normalisation_layers_only() -> None:
    model = build_backbone(CnnConfig(width=8, embedding_dim=8), 4, 3)
    moved = {id(p) for p in norm_parameters(model)}
    names = [n for n, p in model.named_parameters() if id(p) in moved]
    assert names == [n for n, _ in model.named_parameters() if n.startswith("norm.") or n.split(".")[1] in "159"]


def test_the_banks_of_nrc_hold_the_latest_prediction_and_embedding_of_every_window(
    trained: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[torch.Tensor] = []
    real_nearest, real_loss = nrc.nearest, nrc.neighbour_loss

    def watched_nearest(z: torch.Tensor, *rest: Any) -> torch.Tensor:
        searched.append(z.clone())
        return real_nearest(z, *rest)

    def watched_loss(p: torch.Tensor, index: torch.Tensor, near: torch.Tensor, bank: torch.Tensor, c: Any) -> Any:
        assert torch.equal(bank[index], p.detach())
        return real_loss(p, index, near, bank, c)

    monkeypatch.setattr(nrc, "nearest", watched_nearest)
    monkeypatch.setattr(nrc, "neighbour_loss", watched_loss)
    config = NrcConfig(epochs=2, batch_windows=10_000, learning_rate=1e-2, batch_norm="frozen", target_share=0.0)
    one_step = adapt(trained, toy_target(), config.model_copy(update={"epochs": 1}), 0).model
    searched.clear()
    adapt(trained, toy_target(), config.model_copy(update={"batch_windows": 87}), 0)
    assert not torch.allclose(searched[0], searched[1], atol=1e-3)  # the second half was stored after a step
    searched.clear()
    adapt(trained, toy_target(), config.model_copy(update={"epochs": 3}), 0)
    expected = F.normalize(embed_all(one_step, toy_target().windows)[0], dim=1)
    assert torch.allclose(searched[2], expected, atol=1e-5)


def test_tent_leaves_the_users_statistics_for_its_final_weights(trained: Backbone) -> None:
    result = adapt(trained, toy_target(), TentConfig(epochs=2, learning_rate=1e-2), 0).model
    exact = adapt(result, toy_target(), AdaBnConfig(), 0).model
    for mine, again in zip(batch_norms(result), batch_norms(exact), strict=True):
        assert torch.allclose(mine.running_mean, again.running_mean, atol=1e-4)  # type: ignore[arg-type]
        assert torch.allclose(mine.running_var, again.running_var, rtol=1e-3)  # type: ignore[arg-type]
