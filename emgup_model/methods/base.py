"""What every adaptation method is given and gives back. There is no way from here to a label."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from emgup_model.backbones import Backbone
from emgup_model.data.windows import WindowedUser
from emgup_model.methods.checkpoints import Checkpoints
from emgup_model.signal_statistics import SignalStatistics


@dataclass(frozen=True)
class Target:
    """The user to adapt to.

    Attributes:
        windows: unlabelled windows in recording order. Whatever signal they come with, what is kept of it is their
            own stretch: no method can read a recording, or a part of one, that it was not given.
        sequence_length: L, the windows in a sequence.
        ring: whether the electrodes are a ring, so that rotating the channels is turning the armband.
        source_statistics: what the release says of the source users' signals; None = nothing.
        checkpoints: where the state of a long adaptation is kept between epochs; None = nowhere.
    """

    windows: WindowedUser
    sequence_length: int
    ring: bool = False
    source_statistics: SignalStatistics | None = None
    checkpoints: Checkpoints | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "windows", self.windows.own_stretch())


@dataclass(frozen=True)
class Adapted:
    """A personalized model in eval mode, and what happened on the way (steps, losses, shares; never labels)."""

    model: Backbone
    log: dict[str, Any] = field(default_factory=dict)


Adapt = Callable[[Backbone, Target, Any, int], Adapted]
"""adapt(source model, target, the method's config, seed): the source model is never changed."""


def copy_model(model: Backbone) -> Backbone:
    """Independent copy of a model."""
    return copy.deepcopy(model)


def batch_norms(model: nn.Module) -> Iterator[_BatchNorm]:
    """The model's BatchNorm layers."""
    return (m for m in model.modules() if isinstance(m, _BatchNorm))


def set_mode(model: nn.Module, *, dropout: bool, batch_statistics: bool) -> None:
    """Training mode by parts: dropout on or off; BatchNorm on batch statistics (moving the running ones) or frozen."""
    model.train(dropout)
    for layer in batch_norms(model):
        layer.train(batch_statistics)


def shuffled(items: int, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Index batches over ``items`` in random order; the last one may be smaller."""
    return iter(torch.split(torch.randperm(items, generator=generator), batch))


MOST_WINDOWS, MOST_VALUES = 4096, 2**21
"""Limits of one forward pass outside training: windows, and their samples × channels."""


def at_once(windows: WindowedUser) -> int:
    """How many windows a forward pass takes at most; fewer where they are long or have many channels."""
    return max(2, min(MOST_WINDOWS, MOST_VALUES // (windows.signal.shape[0] * windows.window)))


def predict_logits(model: Backbone, windows: WindowedUser) -> torch.Tensor:
    """(N, K) logits of all windows in eval mode; the model's mode is put back."""
    batch = at_once(windows)
    was_training = [(m, m.training) for m in model.modules()]
    model.eval()
    with torch.inference_mode():
        out = [model(windows.batch(slice(i, i + batch))).float().cpu() for i in range(0, len(windows), batch)]
    for module, mode in was_training:
        module.training = mode
    return torch.cat(out)


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One optimiser step down the gradient of ``loss``."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


@torch.no_grad()
def embed_all(model: Backbone, windows: WindowedUser) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, d) embeddings and (N, K) logits of all windows in eval mode, on the windows' device; leaves eval mode on."""
    batch = at_once(windows)
    model.eval()
    z = torch.cat([model.embed(windows.batch(slice(i, i + batch))) for i in range(0, len(windows), batch)])
    return z, model.classify(z)
