"""SSP, the second stage of EMG-UP: fine-tuning on pseudo-labels of an EMA teacher (paper eqs. 7-10)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch.nn import functional as F

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.methods.base import Target, copy_model, descend, set_mode, shuffled
from emgup_model.methods.checkpoints import Loop, epochs
from emgup_model.methods.information import marginal_entropy


class SspConfig(Frozen):
    """Stage 2. The defaults are the published schedule with the resolutions of docs/method.md."""

    kind: Literal["sequence_filter"] = "sequence_filter"
    epochs: int = Field(10, ge=0, le=1000)
    batch_sequences: int = Field(64, ge=1)
    learning_rate: float = Field(1e-7, ge=0, le=1, description="of the whole model, classifier included")
    betas: tuple[float, float] = (0.5, 0.99)
    weight_decay: float = Field(3e-4, ge=0)
    confidence: float = Field(0.8, ge=0, le=1, description="ξ (eq. 8)")
    confident_share: float = Field(
        0.75, ge=0, le=1, description="Nc/L: a sequence is kept if this share of its windows is confident (15 of 20)"
    )
    fallback_confidence: float | None = Field(
        0.9, ge=0, le=1, description="A21: windows above this train if no sequence is kept; null = skip the step"
    )
    ema: float = Field(0.996, ge=0, le=1, description="α (eq. 10), parameters only (A17)")
    diversity_weight: float = Field(
        0.0, ge=0, description="of −H(mean prediction of the batch); not in the paper, 0 = eq. 9 alone"
    )

    @model_validator(mode="after")
    def _betas(self) -> SspConfig:
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self


def select_windows(confidence: torch.Tensor, sequence: torch.Tensor, config: SspConfig) -> tuple[torch.Tensor, int]:
    """Which windows of a batch train (docs/method.md, A20-A22).

    Args:
        confidence: (B,) largest class probability of each window.
        sequence: (B,) number of the window's sequence in the batch, 0..S−1.
        config: ξ, Nc/L and the fallback.

    Returns:
        (B,) bool mask, and the number of sequences kept (0 when the fallback chose single windows, or nothing).
    """
    size = torch.bincount(sequence)
    confident = torch.bincount(sequence[confidence >= config.confidence], minlength=len(size))
    needed = torch.tensor([math.ceil(config.confident_share * n) for n in size.tolist()], device=size.device)
    kept = confident >= needed
    if bool(kept.any()):
        return kept[sequence], int(kept.sum())
    if config.fallback_confidence is None:
        return torch.zeros_like(confidence, dtype=torch.bool), 0
    return confidence > config.fallback_confidence, 0


@torch.no_grad()
def update_teacher(teacher: Backbone, student: Backbone, alpha: float) -> None:
    """Eq. 10 on parameters: θ_T ← α·θ_T + (1 − α)·θ; buffers are left alone."""
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.mul_(alpha).add_(s, alpha=1 - alpha)


def student_loss(logits: torch.Tensor, label: torch.Tensor, keep: torch.Tensor, config: SspConfig) -> torch.Tensor:
    """Eq. 9 on the kept windows, minus the weighted entropy of the mean prediction (nats) of the whole batch.

    Args:
        logits: (B, K) of the student.
        label: (B,) pseudo-labels of the teacher.
        keep: (B,) bool, at least one true.
        config: weight of the diversity term.
    """
    loss = F.cross_entropy(logits[keep], label[keep])
    if config.diversity_weight:
        loss = loss - config.diversity_weight * marginal_entropy(logits)
    return loss


def run_ssp(
    model: Backbone, target: Target, config: SspConfig, *, frozen_bn: bool, gradients: bool, generator: torch.Generator
) -> dict[str, Any]:
    """Fine-tune ``model``, the student, in place; the teacher starts as its copy and is thrown away. Returns a log."""
    windows = target.windows
    sequences = windows.sequences(target.sequence_length, keep_short=True)
    log: dict[str, Any] = {"steps": 0, "skipped": 0, "sequences_kept": 0, "sequences_seen": 0, "loss": []}
    if not sequences or not config.epochs:
        return log
    teacher = copy_model(model)
    teacher.requires_grad_(False)
    set_mode(teacher, dropout=False, batch_statistics=not frozen_bn)
    set_mode(model, dropout=True, batch_statistics=not frozen_bn)
    optimiser = torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    device = windows.starts.device
    loop = Loop({"model": model, "teacher": teacher}, optimiser, generator, log)
    for _ in epochs(config.epochs, target.checkpoints, "ssp", loop):
        losses = []
        for batch in shuffled(len(sequences), config.batch_sequences, generator):
            chosen = [sequences[i] for i in batch.tolist()]
            index = torch.cat(chosen)
            if len(index) < 2:  # BatchNorm has no statistics of one window
                continue
            number = torch.repeat_interleave(torch.tensor([len(c) for c in chosen])).to(device)
            x = windows.batch(index)
            with torch.no_grad():
                confidence, label = teacher(x).softmax(-1).max(-1)
            keep, kept = select_windows(confidence, number, config)
            log["sequences_seen"] += len(chosen)
            log["sequences_kept"] += kept
            if not bool(keep.any()):
                log["skipped"] += 1
                continue
            with torch.set_grad_enabled(gradients):
                loss = student_loss(model(x), label, keep, config)
            if gradients:
                descend(optimiser, loss)
                update_teacher(teacher, model, config.ema)
            losses.append(loss.detach())
            log["steps"] += 1
        if losses:
            log["loss"].append(float(torch.stack(losses).mean()))
    return log
