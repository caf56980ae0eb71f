"""Small versions of every backbone, for the toy gestures (4 channels, 100 Hz, windows of 20 samples)."""

from __future__ import annotations

from emgup_model.backbones import BackboneConfig, CnnConfig, NeuroposeConfig, Vemg2poseConfig
from emgup_model.backbones.neuropose import EncoderBlock
from emgup_model.backbones.norm import Norm
from emgup_model.backbones.vemg2pose import TdsStage


def small_cnn(norm: Norm = "bn") -> CnnConfig:
    return CnnConfig(width=8, embedding_dim=8, norm=norm)


def small_vemg2pose(norm: Norm = "ln") -> Vemg2poseConfig:
    return Vemg2poseConfig(
        sampling_rate_hz=100,
        width=16,
        block_channels=4,
        stages=(TdsStage(kernel=3), TdsStage(kernel=3, stride=2, blocks=1, block_kernel=3)),
        frame_dim=8,
        embedding_dim=8,
        norm=norm,
    )


def small_neuropose(norm: Norm = "bn") -> NeuroposeConfig:
    return NeuroposeConfig(
        sampling_rate_hz=100,
        encoder=(
            EncoderBlock(filters=8, pool_samples=4, pool_channels=2),
            EncoderBlock(filters=16, pool_samples=2, pool_channels=2),
        ),
        residual_blocks=1,
        embedding_dim=8,
        norm=norm,
    )


SMALL: dict[str, BackboneConfig] = {
    f"{name}-{norm}": make(norm)
    for name, make in {"cnn": small_cnn, "vemg2pose": small_vemg2pose, "neuropose": small_neuropose}.items()
    for norm in ("bn", "ln")
}
"""Every backbone with either norm."""
