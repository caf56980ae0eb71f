"""SSA, the first stage of EMG-UP: sequence-cross-perspective contrastive learning (paper eqs. 4-6)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from emgup_model.backbones import Backbone
from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.methods.base import Target, descend, set_mode, shuffled
from emgup_model.methods.checkpoints import Loop, epochs


class SsaConfig(Frozen):
    """Stage 1. The defaults are the published schedule with the resolutions of docs/method.md."""

    epochs: int = Field(5, ge=0, le=1000)
    batch_sequences: int = Field(64, ge=1, description="A3: sequences in a batch, not windows")
    sequence_length: int | None = Field(
        None, ge=2, description="A4: L = T + K of this stage alone (Table 4); null = the release's"
    )
    future_windows: int = Field(3, ge=1, description="K = L − T: windows to predict")
    learning_rate: float = Field(1e-7, ge=0, le=1, description="of the feature extractor f")
    auxiliary_learning_rate: float = Field(1e-4, ge=0, le=1, description="of the context network g and the heads W")
    betas: tuple[float, float] = (0.5, 0.99)
    weight_decay: float = Field(3e-4, ge=0)
    temperature: float = Field(1.0, gt=0, description="A10: eq. 6 prints none")
    candidates: Literal["all", "other_sequences"] = Field(
        "all",
        description="A9: other_sequences leaves out the same sequence's other windows, which mostly show its gesture",
    )
    second_view: Literal["reversed", "masked", "none"] = Field(
        "reversed", description="Table 5: masked = same order, samples zeroed (A27); none = one view, one pass (A26)"
    )
    masked_share: float | None = Field(
        None, gt=0, lt=1, description="share of each window's time samples that second_view: masked zeroes"
    )
    layers: int = Field(3, ge=1, le=12, description="of the context Transformer g")
    heads: int = Field(8, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1, description="in g and W")

    @model_validator(mode="after")
    def _betas(self) -> SsaConfig:
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self

    @model_validator(mode="after")
    def _mask(self) -> SsaConfig:
        if (self.second_view == "masked") != (self.masked_share is not None):
            raise ValueError("masked_share goes with second_view: masked, and only with it")
        return self


class ContextNetwork(nn.Module):
    """g: pre-norm causal Transformer with sinusoidal positions; the context is its last token (eq. 5, A14)."""

    positions: torch.Tensor

    def __init__(self, dim: int, length: int, config: SsaConfig) -> None:
        super().__init__()
        if dim % config.heads:
            raise ValueError(f"embedding width {dim} is not a multiple of {config.heads} attention heads")
        layer = nn.TransformerEncoderLayer(
            dim, config.heads, 4 * dim, config.dropout, "relu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.register_buffer("positions", sinusoidal_positions(length, dim))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, T, d) to contexts (B, d)."""
        mask = nn.Transformer.generate_square_subsequent_mask(z.shape[1], device=z.device)
        out: torch.Tensor = self.encoder(z + self.positions[: z.shape[1]], mask=mask, is_causal=True)
        return out[:, -1]


class Predictor(nn.Module):
    """W_1..W_K: one head for each predicted step, shared by both directions."""

    def __init__(self, dim: int, steps: int, dropout: float) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.Dropout(dropout), nn.GELU(), nn.Linear(4 * dim, dim))
            for _ in range(steps)
        )

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Contexts (B, d) to predictions (B, K, d)."""
        return torch.stack([head(context) for head in self.heads], 1)


def sinusoidal_positions(length: int, dim: int) -> torch.Tensor:
    """(length, dim) sine and cosine position codes (Vaswani et al., 2017)."""
    t = torch.arange(length).unsqueeze(1)
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    out = torch.zeros(length, dim)
    out[:, 0::2] = torch.sin(t * rate)
    out[:, 1::2] = torch.cos(t * rate[: dim // 2])
    return out


def info_nce(
    predicted: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor, temperature: float, other_only: bool = False
) -> torch.Tensor:
    """Eq. 6: −log softmax of cosine similarity, the true latent against all latents of the view in the batch (A9).

    Args:
        predicted: (B, K, d) predictions ẑ.
        latents: (B, L, d) unit-norm latents of the view that is predicted.
        steps: (K,) positions of the true latents inside their sequence.
        temperature: τ.
        other_only: compare with latents of other sequences only (besides the true one).

    Returns:
        Scalar mean over batch and steps; log(B·L) when predictions carry no information.
    """
    B, L, d = latents.shape
    similarity = F.normalize(predicted, dim=-1).reshape(-1, d) @ latents.reshape(-1, d).T / temperature
    true = torch.arange(B, device=latents.device).unsqueeze(1) * L + steps
    if other_only:
        sequence = torch.arange(B * L, device=latents.device) // L
        own = sequence == torch.arange(B, device=latents.device).repeat_interleave(steps.numel()).unsqueeze(1)
        own.scatter_(1, true.flatten().unsqueeze(1), False)
        similarity = similarity.masked_fill(own, -torch.inf)
    return F.cross_entropy(similarity, true.flatten())


def contrastive_loss(
    z: torch.Tensor, z2: torch.Tensor | None, g: ContextNetwork, w: Predictor, config: SsaConfig
) -> torch.Tensor:
    """The loss of eq. 6 in both directions, averaged (docs/method.md, A7-A8; docs/ablations.md, A26-A27).

    Args:
        z: (B, L, d) unit-norm latents of the sequence x_1..x_L.
        z2: (B, L, d) unit-norm latents of the second view: z2_t = f(x_{L+1−t}) if reversed, f(masked x_t) if masked;
            None: one view, whose context predicts its own future.
        g: context network.
        w: prediction heads.
        config: K, τ and the kind of second view.
    """
    K = config.future_windows
    T = z.shape[1] - K
    future = torch.arange(T, T + K, device=z.device)
    others = config.candidates == "other_sequences"
    context = g(z[:, :T])
    if z2 is None:
        return info_nce(w(context), z, future, config.temperature, others)
    if config.second_view == "masked":  # the same order: both contexts read 1..T, both futures are T+1..L
        context2, future2 = g(z2[:, :T]), future
    else:
        context2, future2 = g(z2[:, K:]), torch.arange(K, device=z.device)
    forward = info_nce(w(context2), z, future, config.temperature, others)
    backward = info_nce(w(context), z2, future2, config.temperature, others)
    return (forward + backward) / 2


def mask_samples(x: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Windows (N, C, W) with round(share·W) random time samples of each, at least one, zeroed on all channels (A27)."""
    count = max(1, round(share * x.shape[2]))
    order = torch.rand(x.shape[0], x.shape[2], generator=generator).argsort(1)
    return x.masked_fill((order < count).to(x.device).unsqueeze(1), 0.0)


def second_view(
    windows: WindowedUser, index: torch.Tensor, config: SsaConfig, generator: torch.Generator
) -> torch.Tensor | None:
    """(B·L, C, W) windows of the second view of the sequences ``index`` (B, L); None if there is only one view."""
    if config.second_view == "none":
        return None
    if config.second_view == "reversed":
        return windows.batch(index.flip(1).flatten())
    return mask_samples(windows.batch(index.flatten()), config.masked_share or 0.0, generator)


def cut_sequences(target: Target, config: SsaConfig) -> list[torch.Tensor]:
    """Window indices of the sequences SSA trains on: whole ones of its own length, or of the release's.

    Raises:
        ValueError: a sequence has no window left for the context, or no recording is as long as SSA's own sequences.
    """
    L = config.sequence_length or target.sequence_length
    if config.epochs and config.future_windows >= L:
        raise ValueError(f"future_windows must be smaller than the sequence length {L}")
    sequences = target.windows.sequences(L)
    if config.epochs and config.sequence_length and not sequences:
        raise ValueError(f"no recording has the {L} windows of ssa.sequence_length")
    return sequences


def run_ssa(
    model: Backbone, target: Target, config: SsaConfig, *, frozen_bn: bool, gradients: bool, generator: torch.Generator
) -> dict[str, Any]:
    """Adapt the feature extractor of ``model`` in place; the classifier is not touched. Returns a log.

    With ``gradients`` off only the forward passes are made: what is left is their effect on BatchNorm statistics.
    """
    windows = target.windows
    sequences = cut_sequences(target, config)
    log: dict[str, Any] = {"sequences": len(sequences), "steps": 0, "loss": []}
    if not sequences or not config.epochs:
        return log
    index = torch.stack(sequences)
    device = windows.starts.device
    g = ContextNetwork(model.embedding_dim, index.shape[1], config).to(device)
    w = Predictor(model.embedding_dim, config.future_windows, config.dropout).to(device)
    optimiser = torch.optim.Adam(
        [
            {"params": model.feature_parameters(), "lr": config.learning_rate},
            {"params": [*g.parameters(), *w.parameters()], "lr": config.auxiliary_learning_rate},
        ],
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    set_mode(model, dropout=True, batch_statistics=not frozen_bn)
    loop = Loop({"model": model, "context": g, "heads": w}, optimiser, generator, log)
    for _ in epochs(config.epochs, target.checkpoints, "ssa", loop):
        losses = []
        for batch in shuffled(len(index), config.batch_sequences, generator):
            chosen = index[batch.to(device)]
            with torch.set_grad_enabled(gradients):
                z = _embed(model, windows.batch(chosen.flatten()), chosen.shape)
                other = second_view(windows, chosen, config, generator)
                z2 = None if other is None else _embed(model, other, chosen.shape)
                loss = contrastive_loss(z, z2, g, w, config)
            if gradients:
                descend(optimiser, loss)
            losses.append(loss.detach())
            log["steps"] += 1
        log["loss"].append(float(torch.stack(losses).mean()))
    return log


def _embed(model: Backbone, x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return F.normalize(model.embed(x), dim=-1).view(*shape, -1)
