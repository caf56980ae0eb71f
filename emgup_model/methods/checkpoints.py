"""An adaptation that was killed goes on where it was, and ends with the same bits on the same machine (CPU).

A training loop runs over :func:`epochs` instead of ``range``. After an epoch everything that the next one depends on is
saved under the stage's name: tensors of the modules, the optimiser's moments, both random generators, the log. A later
attempt runs through the same code; in each stage the loop first puts back what was saved and leaves out the epochs that
were done. What lies between stages is computed again from restored values, so any checkpoint may be old or missing:
that costs time, not equality.

One safetensors file each; its facts are JSON in a tensor of bytes. Nothing is unpickled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

FACTS, GENERATOR, GLOBAL = "facts", "generator", "global_generator"


class Store(Protocol):
    """Where checkpoints are kept, by the name of their stage."""

    def load(self, stage: str) -> bytes | None:
        """What was saved last; None if nothing is there."""

    def save(self, stage: str, data: bytes) -> None:
        """Keep ``data``, atomically."""


@dataclass
class Checkpoints:
    """The checkpoints of one adaptation.

    Attributes:
        store: where they are kept.
        key: of the adaptation; checkpoints of another one are ignored.
        every_s: least seconds between two checkpoints.
    """

    store: Store
    key: str
    every_s: float = 5.0
    _last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether it is time for another checkpoint; if so, the clock starts again."""
        if time.monotonic() - self._last < self.every_s:
            return False
        self._last = time.monotonic()
        return True


@dataclass(frozen=True)
class Loop:
    """All that an epoch changes and the next one depends on."""

    modules: Mapping[str, nn.Module]
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    log: dict[str, Any]


def epochs(count: int, checkpoints: Checkpoints | None, stage: str, loop: Loop) -> Iterator[int]:
    """The epochs that are left of ``count``; each is saved when the caller comes back for the next one, if one is due.

    Args:
        count: epochs of the stage.
        checkpoints: None = nothing is saved.
        stage: name, unique in the adaptation.
        loop: changed in place when a checkpoint is put back.
    """
    done = 0 if checkpoints is None else _restore(checkpoints, stage, loop)
    for epoch in range(done, count):
        yield epoch
        if checkpoints is not None and checkpoints.due():
            checkpoints.store.save(stage, pack(loop, checkpoints.key, epoch + 1))


def pack(loop: Loop, key: str, done: int) -> bytes:
    """A checkpoint after ``done`` epochs."""
    tensors = _moments(loop.optimiser)
    for name, module in loop.modules.items():
        tensors |= {f"module.{name}.{k}": v for k, v in module.state_dict().items()}
    tensors |= {GENERATOR: loop.generator.get_state(), GLOBAL: torch.get_rng_state()}
    facts = json.dumps({"key": key, "done": done, "log": loop.log})
    tensors[FACTS] = torch.frombuffer(bytearray(facts.encode()), dtype=torch.uint8)
    return save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})


def _restore(checkpoints: Checkpoints, stage: str, loop: Loop) -> int:
    """Put a stage's checkpoint back; returns its epochs, 0 where there is none that fits."""
    data = checkpoints.store.load(stage)
    if data is None:
        return 0
    try:
        tensors = load(data)
        facts = json.loads(tensors.pop(FACTS).numpy().tobytes())
        generators = tensors.pop(GENERATOR), tensors.pop(GLOBAL)
        if facts["key"] != checkpoints.key or not _fits(tensors, loop):
            return 0
        loop.generator.set_state(generators[0])
        torch.set_rng_state(generators[1])
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError):  # damaged: it costs time, not the run
        return 0
    for name, module in loop.modules.items():
        prefix = f"module.{name}."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    _put_moments(loop.optimiser, tensors)
    loop.log.clear()
    loop.log.update(facts["log"])
    return int(facts["done"])


def _fits(tensors: Mapping[str, torch.Tensor], loop: Loop) -> bool:
    """Whether the tensors are those of the loop's modules, in shape, and finite."""
    expected = {f"module.{n}.{k}": v.shape for n, m in loop.modules.items() for k, v in m.state_dict().items()}
    found = {k: v.shape for k, v in tensors.items() if k.startswith("module.")}
    finite = all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point())
    return expected == found and finite


def _parameters(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]


def _moments(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state (Adam: step and two moments) by parameter number and name."""
    return {
        f"optimiser.{i}.{name}": value
        for i, p in enumerate(_parameters(optimiser))
        for name, value in optimiser.state.get(p, {}).items()
    }


def _put_moments(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The other way. Moments lie in memory as their parameter does: the same operations then round the same way."""
    for i, p in enumerate(_parameters(optimiser)):
        prefix = f"optimiser.{i}."
        mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if mine:
            optimiser.state[p] = {
                k: torch.empty_like(p).copy_(v) if v.shape == p.shape else v.clone() for k, v in mine.items()
            }
