from __future__ import annotations

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from emgup_model.backbones import (
    Backbone,
    BackboneConfig,
    CnnConfig,
    NeuroposeConfig,
    Vemg2poseConfig,
    build_backbone,
)
from emgup_model.backbones.base import receptive_field
from emgup_model.backbones.neuropose import EncoderBlock, Neuropose, _SameConvolution
from emgup_model.backbones.norm import MapLayerNorm
from emgup_model.backbones.vemg2pose import TdsStage, Vemg2pose
from emgup_model.config import digest, find_config, load_yaml
from emgup_model.data.windows import WindowConfig
from emgup_model.errors import ConfigError, ReleaseError
from emgup_model.keys import public_key
from emgup_model.methods.base import copy_model
from emgup_model.release import open_release
from tests.model.backbones.nets import SMALL, small_vemg2pose
from tests.toy import make_release

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def size(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def norms(model: nn.Module) -> tuple[int, int]:
    """BatchNorm layers, layers that normalise each window or frame."""
    layers = list(model.modules())
    batch = sum(isinstance(m, _BatchNorm) for m in layers)
    return batch, sum(isinstance(m, nn.LayerNorm) for m in layers)


def small(config: BackboneConfig, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(config, 4, 3).eval()


def test_sizes_are_the_published_ones() -> None:
    tds = build_backbone(Vemg2poseConfig(), 16, 17)
    assert isinstance(tds, Vemg2pose)
    assert size(tds.encoder) == 2_633_856
    assert norms(tds.encoder) == (0, 12)
    pose = build_backbone(NeuroposeConfig(), 16, 17)
    assert isinstance(pose, Neuropose)
    assert size(pose.encoder) + size(pose.residual) == 6_132_384
    assert norms(pose) == (18, 0)  # of the published 21, three are the decoder's


@pytest.mark.parametrize(("window", "frames"), [(1791, 1), (2000, 3), (2500, 9), (3000, 16), (4000, 28)])
def test_vemg2pose_has_the_published_number_of_frames(window: int, frames: int) -> None:
    model = build_backbone(Vemg2poseConfig(), 16, 17)
    assert isinstance(model, Vemg2pose)
    with torch.no_grad():
        assert model.encoder(torch.zeros(1, window, 16)).shape == (1, frames, 64)


@pytest.mark.parametrize(("window", "frames"), [(320, 1), (2000, 6), (4000, 12)])
def test_neuropose_has_the_published_number_of_frames(window: int, frames: int) -> None:
    model = build_backbone(NeuroposeConfig(), 16, 17)
    assert isinstance(model, Neuropose)
    with torch.no_grad():
        assert model.encoder(torch.zeros(1, 1, window, 16)).shape == (1, 256, frames, 1)


@pytest.mark.parametrize("name", ["cnn", "vemg2pose", "neuropose"])
def test_shipped_files_are_the_defaults(name: str) -> None:
    defaults: dict[str, BackboneConfig] = {
        "cnn": CnnConfig(),
        "vemg2pose": Vemg2poseConfig(),
        "neuropose": NeuroposeConfig(),
    }
    default = defaults[name]
    assert type(default).model_validate(load_yaml(find_config("backbones", name))) == default


def test_files_for_200_hz_cover_the_same_time() -> None:
    tds = Vemg2poseConfig.model_validate(load_yaml(find_config("backbones", "vemg2pose_200hz")))
    fast, slow = receptive_field(Vemg2poseConfig().steps()) / 2000, receptive_field(tds.steps()) / 200
    assert slow == pytest.approx(fast, rel=0.02)
    strides = [stride for _, stride in tds.steps()]
    assert torch.tensor(strides).prod() / 200 == 0.04
    pose = NeuroposeConfig.model_validate(load_yaml(find_config("backbones", "neuropose_200hz")))
    assert torch.tensor([b.pool_samples for b in pose.encoder]).prod() / 200 == 0.16
    assert torch.tensor([b.pool_channels for b in pose.encoder]).prod() == 8


@pytest.mark.parametrize("name", SMALL)
def test_one_interface(name: str) -> None:
    model = small(SMALL[name])
    x = torch.randn(5, 4, 20)
    z = model.embed(x)
    assert z.shape == (5, model.embedding_dim)
    assert torch.equal(model(x), model.classify(z))
    assert model(x).shape == (5, 3)
    assert size(model) == sum(p.numel() for p in model.feature_parameters()) + size(model.head)
    assert norms(model)[name.endswith("bn")] == 0
    assert min(norms(model)[name.endswith("ln")], 1) == 1


@pytest.mark.parametrize("name", SMALL)
def test_mixing_channels_is_mixing_the_input(name: str) -> None:
    model = small(SMALL[name])
    x, first, second = torch.randn(6, 4, 20), torch.randn(4, 4), torch.randn(4, 4)
    expected = model(second @ (first @ x))
    mixed = copy_model(model)
    mixed.mix_channels(second)
    mixed.mix_channels(first)
    torch.testing.assert_close(mixed(x), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model(x), expected, atol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_a_release_of_it_opens_and_predicts_the_same(name: str) -> None:
    model = small(SMALL[name])
    model.mix_channels(torch.roll(torch.eye(4), 1, 1))
    opened = open_release(make_release(KEY, model, backbone=SMALL[name]), [public_key(KEY)])
    assert opened.manifest.backbone == SMALL[name]
    x = torch.randn(5, 4, 20)
    assert torch.equal(opened.model(x), model(x))


def test_a_release_that_its_backbone_cannot_use_is_refused() -> None:
    files = make_release(
        KEY, small(small_vemg2pose()), backbone=small_vemg2pose(), windows=WindowConfig(length=8, hop=4)
    )
    with pytest.raises(ReleaseError, match="at least 9 samples"):
        open_release(files, [public_key(KEY)])


def test_the_receptive_field_is_what_a_frame_depends_on() -> None:
    config = small_vemg2pose()
    model = small(config)
    assert isinstance(model, Vemg2pose)
    x = torch.randn(1, 30, 4, requires_grad=True)
    model.encoder(x)[0, 3].square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    seen = torch.nonzero(x.grad[0].abs().sum(1)).flatten()
    assert model.receptive_field == len(seen) == int(seen[-1] - seen[0]) + 1 == 9


STAGES = st.builds(
    TdsStage,
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    blocks=st.integers(0, 2),
    block_kernel=st.integers(1, 4),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(STAGES, min_size=1, max_size=3), st.integers(1, 6))
def test_vemg2pose_takes_windows_from_its_receptive_field_on(stages: list[TdsStage], channels: int) -> None:
    config = Vemg2poseConfig(width=8, block_channels=4, stages=tuple(stages), frame_dim=4, embedding_dim=4)
    model = build_backbone(config, channels, 3).eval()
    config.check(model.receptive_field, channels, 2000)
    assert model(torch.zeros(1, channels, model.receptive_field)).shape == (1, 3)
    assert isinstance(model, Vemg2pose)
    assert model.encoder(torch.zeros(1, model.receptive_field, channels)).shape[1] == 1
    with pytest.raises(ConfigError, match="needs windows"):
        config.check(model.receptive_field - 1, channels, 2000)


BLOCKS = st.builds(
    EncoderBlock, filters=st.integers(1, 6), pool_samples=st.integers(1, 4), pool_channels=st.integers(1, 3)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(BLOCKS, min_size=1, max_size=3), st.integers(0, 2))
def test_neuropose_takes_what_its_pooling_leaves_something_of(blocks: list[EncoderBlock], residual: int) -> None:
    config = NeuroposeConfig(encoder=tuple(blocks), residual_blocks=residual, embedding_dim=4)
    samples = int(torch.tensor([b.pool_samples for b in blocks]).prod())
    channels = int(torch.tensor([b.pool_channels for b in blocks]).prod())
    config.check(samples, channels, 2000)
    model = build_backbone(config, channels, 3).eval()
    assert model(torch.zeros(1, channels, samples)).shape == (1, 3)
    with pytest.raises(ConfigError, match="pools"):
        config.check(samples, channels - 1, 2000)
    with pytest.raises(ConfigError, match="needs windows"):
        config.check(samples - 1, channels, 2000)


def test_the_norm_of_a_map_is_one_group() -> None:
    norm, one = MapLayerNorm(3), nn.GroupNorm(1, 3)
    with torch.no_grad():
        for parameter in (norm.weight, one.weight, norm.bias, one.bias):
            parameter.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.randn(4, 3, 5, 2)
    torch.testing.assert_close(norm(x), one(x))


@pytest.mark.parametrize("electrodes", [1, 2, 5])
def test_the_convolution_of_one_column_is_the_padded_one(electrodes: int) -> None:
    conv = _SameConvolution(3, 4)
    x = torch.randn(2, 3, 7, electrodes)
    assert conv(x).shape == (2, 4, 7, electrodes)
    torch.testing.assert_close(conv(x), F.conv2d(F.pad(x, (0, 1, 1, 1)), conv.weight, conv.bias))


@pytest.mark.parametrize(
    ("config", "rate"), [(Vemg2poseConfig(), 200.0), (NeuroposeConfig(), 200.0), (NeuroposeConfig(), 4000.0)]
)
def test_recordings_of_another_rate_are_refused_in_one_line(config: BackboneConfig, rate: float) -> None:
    with pytest.raises(ConfigError, match="is scaled for 2000 Hz") as error:
        config.check(8000, 16, rate)
    assert "\n" not in str(error.value)
    config.check(8000, 16, 2148)


def test_cnn_keeps_the_identity_it_had_before_it_had_a_switch() -> None:
    before = {"kind": "cnn", "width": 64, "kernel": 5, "embedding_dim": 64, "dropout": 0.1}
    assert CnnConfig().model_dump(mode="json") == before
    assert digest(CnnConfig()) == digest(before)
    assert CnnConfig.model_validate({**before, "norm": "ln"}).model_dump(mode="json") == {**before, "norm": "ln"}


@pytest.mark.parametrize("name", SMALL)
def test_bf16_is_close_and_leaves_float32_behind(name: str) -> None:
    model = small(SMALL[name])
    x = torch.randn(16, 4, 20)
    exact = model(x)
    model.precision = "bf16"
    mixed = copy_model(model)
    assert mixed.precision == "bf16"
    assert mixed.embed(x).dtype == mixed(x).dtype == torch.float32
    torch.testing.assert_close(mixed(x), exact, atol=0.05, rtol=0.05)
    assert not torch.equal(mixed(x), exact)
    mixed.train()(x).sum().backward()
    gradients = [p.grad for p in mixed.parameters()]
    assert all(g is not None and g.dtype == torch.float32 and bool(torch.isfinite(g).all()) for g in gradients)
    assert mixed.state_dict().keys() == build_backbone(SMALL[name], 4, 3).state_dict().keys()
