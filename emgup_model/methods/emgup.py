"""EMG-UP: SSA, then SSP (paper, Algorithm 1), optionally behind electrode alignment and a safety decision."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

import torch
from pydantic import Discriminator, Field, Tag, model_validator

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.methods.adabn import reestimate
from emgup_model.methods.alignment import RotationConfig
from emgup_model.methods.base import Adapted, Target, copy_model
from emgup_model.methods.refined import RefinedSspConfig, run_refined_ssp
from emgup_model.methods.replay import Replay, ReplayConfig, interpolate
from emgup_model.methods.safety import SafetyConfig, begin, recovered
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
    replay: ReplayConfig | None = Field(
        None, description="refined second stage: first with windows drawn from the release's statistics; null = never"
    )

    @model_validator(mode="after")
    def _replay_fits(self) -> EmgupConfig:
        if self.replay and (self.batch_norm != "frozen" or not isinstance(self.ssp, RefinedSspConfig)):
            raise ValueError("replay needs batch_norm: frozen and ssp.kind: refined")
        return self


class _Switches(TypedDict):
    frozen_bn: bool
    gradients: bool
    generator: torch.Generator


def _rehearsing(
    stage: RefinedSspConfig, replay: ReplayConfig, safety: SafetyConfig | None, even: bool
) -> RefinedSspConfig:
    """The second stage as it runs with replay.

    Pseudo-labels hold wrong names in place, so they wait where gestures have even shares and find their own; where
    shares are uneven they keep the pull to even ones from naming windows after rare gestures.
    """
    if safety and not even:
        return stage.model_copy(update={"epochs": safety.guarded_epochs})
    return stage.model_copy(update={"epochs": replay.epochs, "objective": replay.objective})


def adapt(model: Backbone, target: Target, config: EmgupConfig, seed: int) -> Adapted:
    """Adapt a copy of the source model and return the student of the last step (A24).

    Raises:
        ValueError: ``replay`` is set and the release holds no signal statistics.
    """
    generator = torch.Generator().manual_seed(seed)
    start = begin(model, target, config.rotation, config.safety)
    log: dict[str, Any] = {"decision": start.decision, "start": start.log}
    if start.decision == "source":
        return Adapted(start.model.eval(), log)
    model = copy_model(start.model)
    with torch.random.fork_rng(devices=[]):  # dropout and initialisation draw from the global generator
        torch.manual_seed(seed)
        if config.target_share:
            reestimate(model, target.windows, config.target_share)
        switches = _Switches(frozen_bn=config.batch_norm == "frozen", gradients=config.gradients, generator=generator)
        log["ssa"] = run_ssa(model, target, config.ssa, **switches)
        if isinstance(config.ssp, SspConfig):
            log["ssp"] = run_ssp(model, target, config.ssp, **switches)
        else:
            if config.replay:
                replay = Replay(config.replay, target, start.rotation, generator)
                rehearsing = _rehearsing(config.ssp, config.replay, config.safety, start.even)
                log["replay"] = run_refined_ssp(model, target, rehearsing, **switches, replay=replay)
            if start.decision == "guarded" and config.safety and recovered(model, target, config.safety):
                log["decision"] = "personalized"
            if log["decision"] == "personalized":
                log["ssp"] = run_refined_ssp(model, target, config.ssp, **switches)
        if config.reestimate_at_end:
            reestimate(model, target.windows, 1.0)
        if log["decision"] == "guarded" and config.safety:  # last, so that it holds for whatever was changed
            interpolate(start.model, model, config.safety.kept_share)
    return Adapted(model.eval(), log)
