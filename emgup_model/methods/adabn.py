"""AdaBN: replace the source's BatchNorm statistics by the target user's (Li et al., 2017, arXiv 1603.04779)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.errors import NotApplicableError
from emgup_model.methods.base import Adapted, Target, at_once, batch_norms, copy_model, set_mode, shuffled


class AdaBnConfig(Frozen):
    """BatchNorm re-estimation."""

    kind: Literal["adabn"] = "adabn"
    target_share: float = Field(1.0, ge=0, le=1, description="λ: 1 = the user's statistics, 0 = the source's")


def reestimate(model: Backbone, windows: WindowedUser, target_share: float, generator: torch.Generator) -> int:
    """Set BatchNorm statistics to (1−λ)·source + λ·target in place; returns the number of layers changed.

    They are exact where the windows fit into one pass (``at_once``), else averages over shuffled batches.
    """
    layers = [m for m in batch_norms(model) if m.running_mean is not None and m.running_var is not None]
    if not layers:
        return 0
    before = [(m.running_mean.clone(), m.running_var.clone(), m.momentum) for m in layers]  # type: ignore[union-attr]
    set_mode(model, dropout=False, batch_statistics=True)
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average over the batches below
    with torch.no_grad():
        for index in shuffled(len(windows), at_once(windows), generator):
            if len(index) > 1:
                model.embed(windows.batch(index.to(windows.starts.device)))
    for layer, (mean, var, momentum) in zip(layers, before, strict=True):
        layer.momentum = momentum
        layer.running_mean.lerp_(mean, 1 - target_share)  # type: ignore[union-attr]
        layer.running_var.lerp_(var, 1 - target_share)  # type: ignore[union-attr]
    return len(layers)


def adapt(model: Backbone, target: Target, config: AdaBnConfig, seed: int) -> Adapted:
    """Re-estimate the statistics of a copy on all of the user's windows.

    Raises:
        NotApplicableError: the network has no BatchNorm.
    """
    if not any(batch_norms(model)):
        raise NotApplicableError("the network has no BatchNorm, so there are no statistics for adabn to re-estimate")
    model = copy_model(model)
    layers = reestimate(model, target.windows, config.target_share, torch.Generator().manual_seed(seed))
    return Adapted(model.eval(), {"steps": 0, "batch_norm_layers": layers})
