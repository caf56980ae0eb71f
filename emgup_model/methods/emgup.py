"""EMG-UP: SSA, then SSP (paper, Algorithm 1), optionally behind electrode alignment and a safety decision."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

import torch
from pydantic import Discriminator, Field, Tag

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.methods.adabn import reestimate
from emgup_model.methods.alignment import RotationConfig
from emgup_model.methods.base import Adapted, Target
from emgup_model.methods.refined import RefinedSspConfig, run_refined_ssp
from emgup_model.methods.safety import SafetyConfig, begin
from emgup_model.methods.ssa import SsaConfig, run_ssa
from emgup_model.methods.ssp import SspConfig, run_ssp


def _kind_of_ssp(value: Any) -> str:
    kind = value.get("kind", "sequence_filter") if isinstance(value, dict) else getattr(value, "kind", "")
    return str(kind)


SecondStage = Annotated[
    Annotated[SspConfig, Tag("sequence_filter")] | Annotated[RefinedSspConfig, Tag("refined")],
    Discriminator(_kind_of_ssp),
]
"""The published second stage (also when no kind is given), or the refined one."""


class EmgupConfig(Frozen):
    """The two stages, how BatchNorm is treated, and the switches that show where a gain comes from (docs/method.md)."""

    kind: Literal["emgup"] = "emgup"
    batch_norm: Literal["batch", "frozen"] = Field(
        "batch", description="batch = train mode, running statistics move (A16); frozen = source statistics stay"
    )
    target_share: float = Field(
        0.0, ge=0, le=1, description="λ: share of the user in the BatchNorm statistics before SSA; 0 = the source's"
    )
    reestimate_at_end: bool = Field(
        False, description="after SSP, take the user's exact BatchNorm statistics for the final weights (as AdaBN)"
    )
    gradients: bool = Field(True, description="false = the same forward passes, no optimiser step")
    rotation: RotationConfig | None = Field(None, description="turn back a turned armband first; null = never")
    safety: SafetyConfig | None = Field(None, description="decide from the coverage how far to go; null = all the way")
    ssa: SsaConfig = SsaConfig()
    ssp: SecondStage = SspConfig()


class _Switches(TypedDict):
    frozen_bn: bool
    gradients: bool
    generator: torch.Generator


def adapt(model: Backbone, target: Target, config: EmgupConfig, seed: int) -> Adapted:
    """Adapt a copy of the source model and return the student of the last step (A24)."""
    generator = torch.Generator().manual_seed(seed)
    start = begin(model, target, config.rotation, config.safety, generator)
    log: dict[str, Any] = {"decision": start.decision, "start": start.log}
    if start.decision != "personalized":
        return Adapted(start.model.eval(), log)
    model, frozen = start.model, config.batch_norm == "frozen"
    with torch.random.fork_rng(devices=[]):  # dropout and initialisation draw from the global generator
        torch.manual_seed(seed)
        if config.target_share:
            reestimate(model, target.windows, config.target_share, generator)
        switches = _Switches(frozen_bn=frozen, gradients=config.gradients, generator=generator)
        log["ssa"] = run_ssa(model, target, config.ssa, **switches)
        if isinstance(config.ssp, RefinedSspConfig):
            log["ssp"] = run_refined_ssp(model, target, config.ssp, **switches)
        else:
            log["ssp"] = run_ssp(model, target, config.ssp, **switches)
        if config.reestimate_at_end:
            reestimate(model, target.windows, 1.0, generator)
    return Adapted(model.eval(), log)
