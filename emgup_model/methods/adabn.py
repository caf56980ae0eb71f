"""AdaBN: replace the source's BatchNorm statistics by the target user's (Li et al., 2017, arXiv 1603.04779)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch.nn.modules.batchnorm import _BatchNorm

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.errors import NotApplicableError
from emgup_model.methods.base import Adapted, Target, at_once, batch_norms, copy_model


class AdaBnConfig(Frozen):
    """BatchNorm re-estimation."""

    kind: Literal["adabn"] = "adabn"
    target_share: float = Field(1.0, ge=0, le=1, description="λ: 1 = the user's statistics, 0 = the source's")


def reestimate(model: Backbone, windows: WindowedUser, target_share: float) -> int:
    """Set BatchNorm statistics to (1−λ)·source + λ·target in place, in eval mode; returns the number of layers.

    The target's are those of all N windows at once, whatever N and the size of a forward pass: layer by layer, each on
    what the layers before it give with their new statistics.
    """
    layers = [m for m in batch_norms(model) if m.running_mean is not None and m.running_var is not None]
    before = {m: (m.running_mean.clone(), m.running_var.clone()) for m in layers}  # type: ignore[union-attr]
    model.eval()
    done: list[_BatchNorm] = []
    while len(done) < len(layers):
        done.append(_measure_next(model, windows, [m for m in layers if m not in done]))
    for layer, (mean, var) in before.items():
        layer.running_mean.lerp_(mean, 1 - target_share)  # type: ignore[union-attr]
        layer.running_var.lerp_(var, 1 - target_share)  # type: ignore[union-attr]
    return len(layers)


class _ReachedLayer(Exception):  # noqa: N818 it is no error
    """Ends a forward pass at the layer whose input is wanted."""


@torch.no_grad()
def _measure_next(model: Backbone, windows: WindowedUser, layers: Sequence[_BatchNorm]) -> _BatchNorm:
    """Give the layer of ``layers`` that is reached first the mean and variance of its input over all windows."""
    sums: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    reached: list[_BatchNorm] = []

    def look(layer: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        x = inputs[0].double().transpose(0, 1).flatten(1)  # (features, windows · time)
        sums.append((x.shape[1], x.sum(1), x.square().sum(1)))
        reached.append(layer)  # type: ignore[arg-type]
        raise _ReachedLayer

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    batch = at_once(windows)
    for i in range(0, len(windows), batch):
        with contextlib.suppress(_ReachedLayer):
            model.embed(windows.batch(slice(i, i + batch)))
    for hook in hooks:
        hook.remove()
    count = sum(n for n, _, _ in sums)
    mean = torch.stack([s for _, s, _ in sums]).sum(0) / count
    spread = torch.stack([q for _, _, q in sums]).sum(0) - count * mean.square()
    layer = reached[0]
    layer.running_mean.copy_(mean)  # type: ignore[union-attr]
    layer.running_var.copy_((spread / max(count - 1, 1)).clamp_min(0))  # type: ignore[union-attr]
    return layer


def adapt(model: Backbone, target: Target, config: AdaBnConfig, seed: int) -> Adapted:
    """Re-estimate the statistics of a copy on all of the user's windows.

    Raises:
        NotApplicableError: the network has no BatchNorm.
    """
    if not any(batch_norms(model)):
        raise NotApplicableError("the network has no BatchNorm, so there are no statistics for adabn to re-estimate")
    model = copy_model(model)
    layers = reestimate(model, target.windows, config.target_share)
    return Adapted(model.eval(), {"steps": 0, "batch_norm_layers": layers})
