"""SSP at full strength: soft pseudo-labels of a teacher, refined over held gestures and clusters, renewed every epoch.

What the published second stage leaves on the table on armband data: (1) a gesture is held, so predictions of
neighbouring windows belong together; (2) a new user's gestures form clusters whose means are better labels than the
source classifier's own decisions; (3) the recording holds more windows than its grid, and tomorrow's armband sits a
little differently: windows are drawn off the grid, with small rotations and gains.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from emgup_model.augmentation import Augmentation
from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.methods.base import Target, copy_model, descend, embed_all, set_mode, shuffled
from emgup_model.methods.checkpoints import Loop, epochs
from emgup_model.methods.held import run_index
from emgup_model.methods.objective import ObjectiveConfig, objective
from emgup_model.methods.refined_labels import LabelConfig, refine
from emgup_model.methods.replay import Replay
from emgup_model.methods.ssp import update_teacher


class RefinedSspConfig(Frozen):
    """Stage 2 at full strength; the classifier stays the source's."""

    kind: Literal["refined"] = "refined"
    epochs: int = Field(15, ge=0, le=1000)
    batch_windows: int = Field(128, ge=2)
    learning_rate: float = Field(1e-3, gt=0, le=1, description="of the feature extractor")
    labels: LabelConfig = LabelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    shift_share: float = Field(
        0.5, ge=0, le=1, description="windows start up to this share of the median hop off the grid, either way"
    )
    augmentation: Augmentation = Augmentation(rotated_share=1.0, rotation_electrodes=0.4, gain_log_sd=0.15)
    ema: float = Field(
        0.95, ge=0, lt=1, description="α of the EMA teacher that labels, and is returned; 0 = the student itself"
    )


def run_refined_ssp(
    model: Backbone,
    target: Target,
    config: RefinedSspConfig,
    *,
    frozen_bn: bool,
    gradients: bool,
    generator: torch.Generator,
    replay: Replay | None = None,
) -> dict[str, Any]:
    """Train the feature extractor of ``model`` in place; its weights end as the teacher's. Returns a log."""
    windows = target.windows
    log: dict[str, Any] = {"steps": 0, "loss": [], "mass": []}
    if not config.epochs:
        return log
    augmentation = config.augmentation if target.ring else config.augmentation.model_copy(update={"rotated_share": 0.0})
    teacher = copy_model(model)
    optimiser = torch.optim.Adam(model.feature_parameters(), lr=config.learning_rate)
    loop = Loop({"model": model, "teacher": teacher}, optimiser, generator, log)
    for _ in epochs(config.epochs, target.checkpoints, "replay" if replay else "ssp", loop):
        labels = refine(*embed_all(teacher, windows), windows, config.labels)
        set_mode(model, dropout=False, batch_statistics=not frozen_bn)
        losses = []
        for index in shuffled(len(windows), config.batch_windows, generator):
            if len(index) < 2:
                continue
            chosen = index.to(windows.starts.device)
            x = augmentation.apply(_off_grid(windows, chosen, config.shift_share, generator), generator)
            with torch.set_grad_enabled(gradients):
                if replay is None:
                    loss = objective(model(x), labels.posterior[chosen], labels.prior, config.objective)
                else:
                    again, gestures = replay.batch()
                    mine, others = model(torch.cat([x, again])).split([len(x), len(again)])
                    loss = objective(mine, labels.posterior[chosen], labels.prior, config.objective)
                    loss = loss + replay.loss(others, gestures)
            if gradients:
                descend(optimiser, loss)
                update_teacher(teacher, model, config.ema)
            losses.append(loss.detach())
            log["steps"] += 1
        log["loss"].append(round(float(torch.stack(losses).mean()), 5) if losses else None)
        log["mass"] = [round(v, 4) for v in labels.mass.tolist()]
        if not frozen_bn:
            _copy_buffers(teacher, model)
    with torch.no_grad():
        for mine, averaged in zip(model.feature_parameters(), teacher.feature_parameters(), strict=True):
            mine.copy_(averaged)
    return log


def _off_grid(windows: WindowedUser, index: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """(B, C, W) windows near those at ``index`` (B,), never across the ends of a run of windows that were given."""
    starts = windows.starts[index]
    gaps = windows.starts.diff()
    reach = int(share * float(gaps[gaps > 0].median())) if len(gaps) else 0
    if reach:
        first, last = _bounds(windows)
        moves = torch.randint(-reach, reach + 1, starts.shape, generator=generator).to(starts.device)
        starts = torch.minimum(torch.maximum(starts + moves, first[index]), last[index])
    return windows.view()[starts]


def _bounds(windows: WindowedUser) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) first and last start in each window's run of consecutive windows: nothing beyond them was given."""
    run, place = run_index(windows)
    first = windows.starts[place == 0]
    last = windows.starts[_run_ends(run)]
    return first[run], last[run]


def _run_ends(run: torch.Tensor) -> torch.Tensor:
    """(N,) bool: the last window of each run."""
    ends = torch.ones_like(run, dtype=torch.bool)
    ends[:-1] = run[1:] != run[:-1]
    return ends


def _copy_buffers(teacher: Backbone, model: Backbone) -> None:
    with torch.no_grad():
        for mine, other in zip(teacher.buffers(), model.buffers(), strict=True):
            mine.copy_(other)
