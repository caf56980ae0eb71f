"""One step of each yardstick on all windows at once, against its loss written out and the same optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch.nn import functional as F

from emgup_model.backbones import Backbone
from emgup_model.methods import NrcConfig, ShotConfig, TentConfig, adapt
from emgup_model.methods.base import batch_norms, copy_model
from emgup_model.methods.shot import prototype_labels
from tests.model.methods.toys import toy_target

RATE, ALL = 0.004, 10_000
"""A rate that is nobody's default, and a batch of all windows."""
USER = toy_target(without=(1,))
"""Shares are uneven, so that the diversity terms pull."""
X = USER.windows.batch()


def mean_entropy(logits: torch.Tensor) -> torch.Tensor:
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def entropy_of_mean(logits: torch.Tensor) -> torch.Tensor:
    mean = logits.softmax(1).mean(0)
    return -(mean * mean.log()).sum()


def stepped(
    model: Backbone, loss: Callable[[Backbone], torch.Tensor], parameters: Callable[[Backbone], Iterable[torch.Tensor]]
) -> Backbone:
    """A copy after one step of Adam down ``loss``."""
    model = copy_model(model)
    optimiser = torch.optim.Adam(parameters(model), lr=RATE)
    optimiser.zero_grad()
    loss(model).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return model


def assert_same_step(result: Backbone, expected: Backbone, source: Backbone) -> None:
    """Adam's first step is the rate times the gradient's sign: equal but where a gradient is next to zero."""
    moved = 0
    for (name, mine), other, before in zip(
        result.named_parameters(), expected.parameters(), source.parameters(), strict=True
    ):
        equal = torch.isclose(mine, other, atol=RATE / 50, rtol=0).float().mean()
        assert float(equal) > 0.93, name
        moved += int((other != before).any())
    assert moved


@pytest.mark.parametrize("diversity", [False, True])
def test_tent(trained: Backbone, diversity: bool) -> None:
    def loss(model: Backbone) -> torch.Tensor:
        for layer in batch_norms(model):
            layer.train()
        logits = model(X)
        return mean_entropy(logits) - diversity * entropy_of_mean(logits)

    def affine(model: Backbone) -> list[torch.Tensor]:
        return [p for layer in batch_norms(model) for p in layer.parameters()]

    config = TentConfig(epochs=1, batch_windows=ALL, learning_rate=RATE, diversity=diversity)
    result = adapt(trained, USER, config, 0)
    assert_same_step(result.model, stepped(trained, loss, affine), trained)
    assert result.log == {"steps": 1}
    assert all(p.requires_grad for p in result.model.parameters())


@pytest.mark.parametrize("batch_norm", ["frozen", "batch"])
@pytest.mark.parametrize("diversity", [False, True])
def test_shot(trained: Backbone, diversity: bool, batch_norm: str) -> None:
    with torch.no_grad():
        labels = prototype_labels(trained.embed(X), trained(X).softmax(1))

    def loss(model: Backbone) -> torch.Tensor:
        for layer in batch_norms(model):
            layer.train(batch_norm == "batch")
        logits = model(X)
        named = 0.7 * F.cross_entropy(logits, labels)
        return mean_entropy(logits) + named - diversity * entropy_of_mean(logits)

    settings = {"epochs": 1, "batch_windows": ALL, "learning_rate": RATE, "pseudo_label_weight": 0.7}
    config = ShotConfig.model_validate(settings | {"diversity": diversity, "batch_norm": batch_norm})
    result = adapt(trained, USER, config, 0)
    assert_same_step(result.model, stepped(trained, loss, lambda m: m.feature_parameters()), trained)
    assert result.log == {"steps": 1}


def test_nrc(trained: Backbone) -> None:
    config = NrcConfig(
        epochs=1,
        batch_windows=ALL,
        learning_rate=RATE,
        batch_norm="frozen",
        target_share=0.0,
        neighbours=3,
        expanded=2,
        weak_weight=0.2,
        exclude_windows=1,
    )
    windows = USER.windows
    with torch.no_grad():
        z = F.normalize(trained.embed(X), dim=1)
        bank = trained(X).softmax(1)
    similarity = z @ z.T
    for i in range(len(z)):
        for j in range(len(z)):
            if (
                windows.recording[i] == windows.recording[j]
                and abs(int(windows.position[i] - windows.position[j])) <= 4
            ):
                similarity[i, j] = -torch.inf
    near = similarity.topk(3, 1).indices  # neighbouring windows overlap, and would be the nearest

    def loss(model: Backbone) -> torch.Tensor:
        logits = model(X)
        p = logits.softmax(1)
        total = torch.zeros(())
        for i in range(len(p)):
            for k in near[i].tolist():
                weight = 1.0 if i in near[k, :2].tolist() else 0.2
                total = total - weight * (bank[k] @ p[i]) - 0.2 * bank[near[k, :2]].sum(0) @ p[i]
            total = total - p[i].detach() @ p[i]
        return total / len(p) - entropy_of_mean(logits)

    result = adapt(trained, USER, config, 0)
    assert_same_step(result.model, stepped(trained, loss, lambda m: m.parameters()), trained)
    assert result.log == {"steps": 1}
