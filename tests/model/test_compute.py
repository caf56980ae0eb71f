from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from emgup_model.backbones import Backbone, build_backbone
from emgup_model.compute import ComputeConfig, resolve_device
from emgup_model.config import parse
from emgup_model.data.store import Store
from emgup_model.data.windows import PreprocessingConfig, WindowConfig
from emgup_model.errors import ConfigError
from emgup_model.methods.base import copy_model
from emgup_model.pretrain import PretrainConfig, Trained, accumulate_gradient, train_source
from emgup_model.source_users import load_labelled
from tests.model.backbones.nets import SMALL, small_cnn, small_neuropose, small_vemg2pose


def gradient(model: Backbone, x: torch.Tensor, y: torch.Tensor, micro_batch: int | None) -> tuple[float, torch.Tensor]:
    """(the loss, all gradients in one vector) of a copy in train mode."""
    model = copy_model(model).train()
    loss = accumulate_gradient(model, x, y, 0.1, micro_batch)
    return float(loss), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def a_batch(windows: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(windows, 4, 20) * (1 + torch.arange(windows).view(-1, 1, 1)), torch.arange(windows) % 3


@pytest.mark.parametrize("windows", [7, 16])
@pytest.mark.parametrize("micro_batch", [2, 5, 100])
def test_with_layernorm_added_up_gradients_are_the_whole_batchs(windows: int, micro_batch: int) -> None:
    torch.manual_seed(0)
    model = build_backbone(small_vemg2pose("ln"), 4, 3)
    x, y = a_batch(windows)
    loss, expected = gradient(model, x, y, None)
    found, added = gradient(model, x, y, micro_batch)
    assert found == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(added, expected, atol=1e-5, rtol=1e-4)


def test_with_batchnorm_they_are_not() -> None:
    """Each part has statistics of its own, which is what the docs say."""
    torch.manual_seed(0)
    model = build_backbone(small_vemg2pose("bn"), 4, 3)
    x, y = a_batch(16)
    assert not torch.allclose(gradient(model, x, y, 4)[1], gradient(model, x, y, None)[1], rtol=0.05)
    frozen = copy_model(model).eval()
    accumulate_gradient(frozen, x, y, 0.1, 4)
    whole = copy_model(model).eval()
    accumulate_gradient(whole, x, y, 0.1, None)
    for mine, other in zip(frozen.parameters(), whole.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-3)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 70), st.integers(2, 80))
def test_no_part_is_too_small_for_batchnorm_nor_much_larger_than_asked(windows: int, micro_batch: int) -> None:
    seen: list[int] = []
    layer = nn.Linear(1, 2)

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        out: torch.Tensor = layer(x)
        return out

    accumulate_gradient(network, torch.zeros(windows, 1), torch.zeros(windows, dtype=torch.int64), 0.0, micro_batch)
    assert sum(seen) == windows
    assert min(seen) >= 2
    assert max(seen) <= micro_batch + 1


def trained(store: Store, compute: ComputeConfig, name: str = "cnn-bn") -> Trained:
    grid, users = WindowConfig(length=20, hop=10, sequence_length=8), store.users
    loaded = [load_labelled(store, u, grid, PreprocessingConfig(highpass_hz=None)) for u in users[:3]]
    config = PretrainConfig(epochs=4, batch_windows=64, learning_rate=1e-2)
    info = store.infos[users[0]]
    return train_source(loaded[:2], loaded[2:], info, SMALL[name], grid, config, seed=1, compute=compute)


@pytest.mark.parametrize("name", SMALL)
def test_every_backbone_learns_in_mixed_precision_and_parts(toy_store: Store, name: str) -> None:
    result = trained(toy_store, ComputeConfig(precision="bf16", micro_batch=16), name)
    assert result.validation_accuracy > 0.6
    assert result.model.precision == "fp32"
    assert {t.dtype for t in result.model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_compiled_training_is_the_same_training(toy_store: Store) -> None:
    torch.manual_seed(0)
    model = build_backbone(small_vemg2pose(), 4, 3)
    x, y = a_batch(16)
    _, expected = gradient(model, x, y, None)
    accumulate_gradient(torch.compile(model), x, y, 0.1, None)
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    result = trained(toy_store, ComputeConfig(compile=True), "vemg2pose-ln")
    assert result.validation_accuracy > 0.6
    assert result.model.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("data", [{"precision": "fp16"}, {"micro_batch": 1}, {"compile": "maybe"}, {"tf32": True}])
def test_settings_that_make_no_sense_are_one_line(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        parse(ComputeConfig, data, "here")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cuda:99", "mps:7", "tpu", "cuda:x", ""])
def test_a_device_that_is_not_there_is_one_line(name: str) -> None:
    if name.startswith("mps") and torch.backends.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(ConfigError) as error:
        resolve_device(name)
    assert "\n" not in str(error.value)


def test_auto_is_a_device_that_works() -> None:
    assert torch.zeros(1, device=resolve_device("auto")).sum() == 0
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_backbone_for_another_rate_is_refused_before_training(toy_store: Store) -> None:
    grid = WindowConfig(length=20, hop=10, sequence_length=8)
    users = [load_labelled(toy_store, u, grid, PreprocessingConfig(highpass_hz=None)) for u in toy_store.users[:2]]
    config = small_neuropose().model_copy(update={"sampling_rate_hz": 2000.0})
    info = toy_store.infos[toy_store.users[0]]
    with pytest.raises(ConfigError, match="scaled for 2000 Hz"):
        train_source(users[:1], users[1:], info, config, grid, PretrainConfig(epochs=1), seed=0)
    assert small_cnn().check(4, 1, 1.0) is None
