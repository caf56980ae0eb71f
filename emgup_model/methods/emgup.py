"""EMG-UP: SSA, then SSP (paper, Algorithm 1)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.methods.base import Adapted, Target, copy_model
from emgup_model.methods.ssa import SsaConfig, run_ssa
from emgup_model.methods.ssp import SspConfig, run_ssp


class EmgupConfig(Frozen):
    """The two stages and the two switches that show where a gain comes from (docs/method.md)."""

    kind: Literal["emgup"] = "emgup"
    batch_norm: Literal["batch", "frozen"] = Field(
        "batch", description="batch = train mode, running statistics move (A16); frozen = source statistics stay"
    )
    gradients: bool = Field(True, description="false = the same forward passes, no optimiser step")
    ssa: SsaConfig = SsaConfig()
    ssp: SspConfig = SspConfig()


def adapt(model: Backbone, target: Target, config: EmgupConfig, seed: int) -> Adapted:
    """Adapt a copy of the source model and return the student of the last step (A24)."""
    model = copy_model(model)
    generator = torch.Generator().manual_seed(seed)
    frozen = config.batch_norm == "frozen"
    log: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):  # dropout and initialisation draw from the global generator
        torch.manual_seed(seed)
        for name, stage, settings in (("ssa", run_ssa, config.ssa), ("ssp", run_ssp, config.ssp)):
            log[name] = stage(
                model,
                target,
                settings,  # type: ignore[arg-type]
                frozen_bn=frozen,
                gradients=config.gradients,
                generator=generator,
            )
    return Adapted(model.eval(), log)
