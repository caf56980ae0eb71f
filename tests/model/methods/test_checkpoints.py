"""Stages that stop anywhere and start again; kills of real processes are in tests/client/test_resume.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from emgup_model.backbones import Backbone
from emgup_model.methods import Adapted, EmgupConfig, MethodConfig, NrcConfig, ShotConfig, TentConfig, adapt
from emgup_model.methods.base import Target
from emgup_model.methods.checkpoints import Checkpoints
from emgup_model.methods.ssa import SsaConfig
from emgup_model.methods.ssp import SspConfig
from tests.model.methods.toys import differing, short_emgup, toy_target, train_toy_model, weights

PAPER = EmgupConfig(
    ssa=SsaConfig(epochs=2, learning_rate=1e-3),
    ssp=SspConfig(epochs=2, learning_rate=1e-3, confidence=0.1),
    target_share=0.5,
)


class StopError(Exception):
    """The process is gone."""


class Memory:
    """Checkpoints in memory; the ``stop``-th save is the last thing that happens."""

    def __init__(self, stop: int = 0) -> None:
        self.kept: dict[str, bytes] = {}
        self.saves = 0
        self.stop = stop

    def load(self, stage: str) -> bytes | None:
        return self.kept.get(stage)

    def save(self, stage: str, data: bytes) -> None:
        self.saves += 1
        self.kept[stage] = data
        if self.saves == self.stop:
            raise StopError


@pytest.fixture(scope="module")
def model() -> Backbone:
    return train_toy_model()


OTHERS: dict[str, MethodConfig] = {
    "shot": ShotConfig(epochs=4, target_share=0.5, batch_norm="batch"),
    "nrc": NrcConfig(epochs=4),
    "tent": TentConfig(epochs=4, batch_windows=32, diversity=True),
}


def config(name: str) -> MethodConfig:
    if name == "paper":
        return PAPER
    if name in OTHERS:
        return OTHERS[name]
    ssa = short_emgup().ssa.model_copy(update={"dropout": 0.1})  # so that the global generator matters
    return short_emgup(ssa=ssa)


def run(model: Backbone, name: str, memory: Memory | None, key: str = "k", every_s: float = 0.0) -> Adapted:
    saved = None if memory is None else Checkpoints(memory, key, every_s)
    plain = toy_target()
    target = Target(plain.windows, plain.sequence_length, plain.ring, plain.source_statistics, saved)
    return adapt(model, target, config(name), 5)


def same(a: Adapted, b: Adapted) -> bool:
    return not differing(weights(a.model), weights(b.model)) and a.log == b.log


@pytest.mark.parametrize("name", ["paper", "full", *OTHERS])
def test_stopped_after_any_epoch_it_ends_as_if_undisturbed(model: Backbone, name: str) -> None:
    undisturbed, watched = run(model, name, None), Memory()
    assert same(run(model, name, watched), undisturbed)
    assert watched.saves == {"full": 6}.get(name, 4)
    for stop in range(1, watched.saves + 1):
        memory = Memory(stop)
        with pytest.raises(StopError):
            run(model, name, memory)
        torch.manual_seed(stop)  # a new process starts with other global state
        assert same(run(model, name, memory), undisturbed)
        assert memory.saves == watched.saves  # no epoch was done twice


def test_stopped_again_and_again(model: Backbone) -> None:
    undisturbed, memory = run(model, "full", None), Memory()
    for stop in range(1, 7):
        memory.stop = stop
        with pytest.raises(StopError):
            run(model, "full", memory)
    assert same(run(model, "full", memory), undisturbed)


@pytest.mark.parametrize("name", ["full", *OTHERS])
def test_the_callers_random_numbers_are_as_they_were(model: Backbone, name: str) -> None:
    memory = Memory(1)
    with pytest.raises(StopError):
        run(model, name, memory)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    run(model, name, memory)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("bank", ["features", "probabilities"])
def test_a_bank_of_another_shape_costs_time_only(model: Backbone, bank: str) -> None:
    undisturbed, memory = run(model, "nrc", None), Memory(2)
    with pytest.raises(StopError):
        run(model, "nrc", memory)
    tensors = load(memory.kept["nrc"])
    memory.kept["nrc"] = save(tensors | {f"bank.{bank}": torch.zeros(2, 2)})
    assert same(run(model, "nrc", memory), undisturbed)
    assert memory.saves == 2 + 4


@pytest.mark.parametrize("lost", ["ssa", "replay"])
def test_a_lost_checkpoint_costs_time_only(model: Backbone, lost: str) -> None:
    undisturbed, memory = run(model, "full", None), Memory(5)
    with pytest.raises(StopError):
        run(model, "full", memory)
    del memory.kept[lost]
    assert same(run(model, "full", memory), undisturbed)


def no_tensor(data: bytes) -> bytes:
    return data[:-100]


def nan(data: bytes) -> bytes:
    tensors = load(data)
    tensors["module.model.head.weight"][0] = float("nan")
    return save(tensors)


def another_shape(data: bytes) -> bytes:
    tensors = load(data)
    return save(tensors | {"module.model.head.weight": torch.zeros(2, 2)})


def another_module(data: bytes) -> bytes:
    tensors = load(data)
    return save(tensors | {"module.model.extra": torch.zeros(1)})


def no_facts(data: bytes) -> bytes:
    return save({k: v for k, v in load(data).items() if k != "facts"})


def nonsense(_: bytes) -> bytes:
    return b"\x80\x04K\x01."  # a pickle


@pytest.mark.parametrize("damage", [no_tensor, nan, another_shape, another_module, no_facts, nonsense])
def test_a_damaged_checkpoint_costs_time_only(model: Backbone, damage: Any) -> None:
    undisturbed, memory = run(model, "paper", None), Memory(1)
    with pytest.raises(StopError):
        run(model, "paper", memory)
    memory.kept["ssa"] = damage(memory.kept["ssa"])
    assert same(run(model, "paper", memory), undisturbed)


def test_checkpoints_of_another_adaptation_are_ignored(model: Backbone) -> None:
    memory = Memory()
    run(model, "paper", memory)
    saves = memory.saves
    run(model, "paper", memory, "other")
    assert memory.saves == 2 * saves


def test_checkpoints_are_as_rare_as_asked(model: Backbone) -> None:
    memory = Memory()
    run(model, "paper", memory, every_s=3600.0)
    assert memory.saves == 0
