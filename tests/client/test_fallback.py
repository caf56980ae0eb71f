"""A device that fails in the middle: the same adaptation again on the CPU, from the same seed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from emgup_client.app import make_app
from emgup_client.fallback import or_on_the_cpu
from emgup_client.vault import EVALUATION, WEIGHTS
from emgup_model import personalize as personalization
from emgup_model.compute import device_failed
from emgup_model.config import canonical_json
from emgup_model.methods import MethodConfig, ShotConfig, load_method, parse_method
from emgup_model.wire import Reply, Status
from tests.client.clients import Client
from tests.client.homes import Home, make_home

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.95 GiB"
PAPER = parse_method(
    {"kind": "emgup", "ssa": {"epochs": 3, "learning_rate": 1e-3}, "ssp": {"epochs": 3, "confidence": 0.1}}, "test"
)
METHODS: dict[str, MethodConfig] = {"paper": PAPER, "shot": ShotConfig(epochs=4), "adabn": load_method("adabn")}


class SmallGpu:
    """What PyTorch does on a GPU whose memory is full: at the first forward pass there, or after some training steps.

    The device ``meta`` stands for the GPU in the first case: tensors really go there, and nothing can come back. In the
    second the first attempt computes on ``cpu:0``, which is the CPU under another name, until the memory is full.
    """

    def __init__(self, after_steps: int | None) -> None:
        self.raised = 0
        self._left = after_steps
        hook = self._forward if after_steps is None else self._step
        register = register_module_forward_pre_hook if after_steps is None else register_optimizer_step_post_hook
        self.handle = register(hook)  # type: ignore[operator]

    def _forward(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].is_meta:
            self._raise()

    def _step(self, *_: object) -> None:
        assert self._left is not None
        self._left -= 1
        if not self._left:
            self._raise()

    def _raise(self) -> None:
        self.raised += 1
        raise torch.OutOfMemoryError(FULL)


@pytest.fixture
def at_once() -> Iterator[SmallGpu]:
    gpu = SmallGpu(None)
    yield gpu
    gpu.handle.remove()


@pytest.fixture
def later() -> Iterator[SmallGpu]:
    gpu = SmallGpu(5)
    yield gpu
    gpu.handle.remove()


def client_of(folder: Path, device: str) -> tuple[Client, Home]:
    home = make_home(folder)
    settings = dataclasses.replace(home.settings(), device=device, threads=1)
    return Client(home.folder, make_app(lambda _: settings), home.files), home


def personalize(folder: Path, device: str, method: MethodConfig) -> tuple[bytes, dict[str, object], str]:
    """Weights, what the vault says of their making, and the client's log."""
    client, _ = client_of(folder, device)
    reply = client.personalize(method=canonical_json(method).decode(), user="u0")
    assert reply.status is Status.OK
    cell = client.home / "vault" / "u0" / ("a" * 64)
    assert {p.name for p in cell.iterdir()} == {WEIGHTS, EVALUATION, "reply.json", ".lock"}
    evaluation = json.loads((cell / EVALUATION).read_text())
    evaluation.pop("adapt_seconds"), evaluation.pop("release_id")
    return (cell / WEIGHTS).read_bytes(), evaluation, client.log


@pytest.mark.parametrize("name", METHODS)
def test_a_gpu_that_is_full_at_once(at_once: SmallGpu, tmp_path: Path, name: str) -> None:
    weights, evaluation, log = personalize(tmp_path / "gpu", "meta", METHODS[name])
    assert at_once.raised == 1
    assert "device meta failed (CUDA out of memory." in log
    assert evaluation["device"] == "cpu"
    assert (weights, evaluation, "") == personalize(tmp_path / "cpu", "cpu", METHODS[name])


@pytest.mark.parametrize("name", ["paper", "shot"])
def test_a_gpu_that_is_full_in_the_middle_leaves_no_half_trained_state(
    later: SmallGpu, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoints, saved after every epoch here, are not those of the CPU."""
    real, saved = personalization.Checkpoints, []

    class EveryEpoch(real):  # type: ignore[misc,valid-type]
        def due(self) -> bool:
            saved.append(self.key)
            return True

    monkeypatch.setattr(personalization, "Checkpoints", EveryEpoch)
    weights, evaluation, log = personalize(tmp_path / "gpu", "cpu:0", METHODS[name])
    assert later.raised == 1
    assert saved[0].endswith(" cpu:0")
    assert saved[-1].endswith(" cpu")
    assert "device cpu:0 failed (CUDA out of memory." in log
    assert (weights, evaluation, "") == personalize(tmp_path / "cpu", "cpu", METHODS[name])


@pytest.mark.skipif(torch.xpu.is_available(), reason="it is there")
def test_a_device_that_is_gone_when_the_task_starts(tmp_path: Path) -> None:
    """PyTorch only says so when it is used."""
    weights, evaluation, log = personalize(tmp_path / "gpu", "xpu", METHODS["adabn"])
    assert "device xpu failed (Torch not compiled with XPU enabled)" in log
    assert evaluation["device"] == "cpu"
    assert load(weights)


def test_a_cpu_without_memory_is_a_code_and_is_not_tried_twice(later: SmallGpu, tmp_path: Path) -> None:
    client, home = client_of(tmp_path, "cpu")
    reply = client.personalize(method=canonical_json(METHODS["shot"]).decode(), user="u0")
    assert reply == Reply(status=Status.INTERNAL)
    assert later.raised == 1
    assert not list((home.folder / "vault").rglob(WEIGHTS))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(FULL),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)"),
        NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device."),
        RuntimeError("No CUDA GPUs are available"),
        RuntimeError("Found no NVIDIA driver on your system."),
        AssertionError("Torch not compiled with CUDA enabled"),
        RuntimeError("PyTorch is not linked with support for mps devices"),
    ],
)
def test_what_devices_say_when_they_fail(error: BaseException) -> None:
    assert device_failed(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ValueError("out of memory"),
        AssertionError("x > 0"),
        OSError(12, "out of memory"),
    ],
)
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    asked: list[str] = []

    def compute(device: str) -> None:
        asked.append(device)
        raise error

    with pytest.raises(type(error)):
        or_on_the_cpu("cuda", compute)
    assert asked == ["cuda"]
