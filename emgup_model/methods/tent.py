"""TENT: entropy minimisation over normalisation parameters (Wang et al., ICLR 2021)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.methods.adabn import reestimate
from emgup_model.methods.base import Adapted, Target, batch_norms, copy_model, descend, set_mode, shuffled
from emgup_model.methods.checkpoints import Loop, epochs
from emgup_model.methods.information import entropy, marginal_entropy


class TentConfig(Frozen):
    """Offline TENT: several epochs over the user's windows, BatchNorm on batch statistics, re-estimated at the end."""

    kind: Literal["tent"] = "tent"
    epochs: int = Field(5, ge=1, le=1000)
    batch_windows: int = Field(200, ge=2)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    diversity: bool = Field(False, description="also maximise the entropy of the mean prediction")


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Scale and shift of every BatchNorm and LayerNorm."""
    layers = [*batch_norms(model), *(m for m in model.modules() if isinstance(m, nn.LayerNorm))]
    return [p for layer in layers for p in layer.parameters(recurse=False)]


def adapt(model: Backbone, target: Target, config: TentConfig, seed: int) -> Adapted:
    """Minimise the entropy of predictions over the normalisation parameters of a copy."""
    model = copy_model(model)
    generator = torch.Generator().manual_seed(seed)
    parameters = norm_parameters(model)
    model.requires_grad_(False)
    for p in parameters:
        p.requires_grad_(True)
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
    set_mode(model, dropout=False, batch_statistics=True)
    log: dict[str, Any] = {"steps": 0}
    for _ in epochs(config.epochs, target.checkpoints, "tent", Loop({"model": model}, optimiser, generator, log)):
        for index in shuffled(len(target.windows), config.batch_windows, generator):
            if len(index) < 2:
                continue
            logits = model(target.windows.batch(index.to(target.windows.starts.device)))
            loss = entropy(logits).mean()
            if config.diversity:
                loss = loss - marginal_entropy(logits)
            descend(optimiser, loss)
            log["steps"] += 1
    model.requires_grad_(True)
    reestimate(model, target.windows, 1.0)
    return Adapted(model.eval(), log)
