"""An adaptation that was killed goes on where it was, and ends with the same bits on the same machine (CPU).

A training loop runs over :func:`epochs` instead of ``range``. After an epoch everything that the next one depends on is
saved under the stage's name: tensors of the modules, the optimiser's moments, both random generators, the log. A later
attempt runs through the same code; in each stage the loop first puts back what was saved and leaves out the epochs that
were done. What lies between stages is computed again from restored values, so any checkpoint may be old or missing:
that costs time, not equality. A stream of blocks (``evaluation.streaming``) is saved the same way, block by block.

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
MODULE, BANK, OPTIMISER = "module.", "bank.", "optimiser."


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
class Saved:
    """What a checkpoint holds: rounds that were done, their log (JSON), and finite tensors on the CPU by name."""

    done: int
    log: dict[str, Any]
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Loop:
    """All that an epoch changes and the next one depends on; ``banks`` are tensors beside the modules'."""

    modules: Mapping[str, nn.Module]
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    log: dict[str, Any]
    banks: Mapping[str, torch.Tensor] = field(default_factory=dict)


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
            tensors = _state(loop) | _moments(loop.optimiser)
            tensors |= {GENERATOR: loop.generator.get_state(), GLOBAL: torch.get_rng_state()}
            keep(checkpoints, stage, Saved(epoch + 1, loop.log, tensors))


def keep(checkpoints: Checkpoints, stage: str, saved: Saved) -> None:
    """Write a stage's checkpoint."""
    facts = json.dumps({"key": checkpoints.key, "done": saved.done, "log": saved.log})
    tensors = {FACTS: torch.frombuffer(bytearray(facts.encode()), dtype=torch.uint8), **saved.tensors}
    checkpoints.store.save(stage, save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}))


def find(checkpoints: Checkpoints, stage: str) -> Saved | None:
    """A stage's checkpoint; None where there is none that is whole and of this adaptation: that costs time."""
    data = checkpoints.store.load(stage)
    if data is None:
        return None
    try:
        tensors = load(data)
        facts = json.loads(tensors.pop(FACTS).numpy().tobytes())
        saved = Saved(int(facts["done"]), dict(facts["log"]), tensors)
        if facts["key"] != checkpoints.key:
            return None
    except (SafetensorError, ValueError, KeyError, TypeError):
        return None
    finite = all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point())
    return saved if finite else None


def fits(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    """Whether there are tensors of the same names and shapes."""
    return {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in expected.items()}


def _restore(checkpoints: Checkpoints, stage: str, loop: Loop) -> int:
    """Put a stage's checkpoint back; returns its epochs, 0 where there is none that fits."""
    saved = find(checkpoints, stage)
    if saved is None:
        return 0
    state = {k: v for k, v in saved.tensors.items() if k.startswith((MODULE, BANK))}
    if not fits(state, _state(loop)):
        return 0
    try:
        loop.generator.set_state(saved.tensors[GENERATOR])
        torch.set_rng_state(saved.tensors[GLOBAL])
    except (KeyError, TypeError, RuntimeError):
        return 0
    for name, module in loop.modules.items():
        prefix = f"{MODULE}{name}."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    for name, bank in loop.banks.items():
        bank.copy_(state[BANK + name])
    _put_moments(loop.optimiser, saved.tensors)
    loop.log.clear()
    loop.log.update(saved.log)
    return saved.done


def _state(loop: Loop) -> dict[str, torch.Tensor]:
    """Tensors of the loop's modules, and its banks, by name."""
    modules = {f"{MODULE}{n}.{k}": v for n, m in loop.modules.items() for k, v in m.state_dict().items()}
    return modules | {BANK + name: bank for name, bank in loop.banks.items()}


def _parameters(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]


def _moments(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state (Adam: step and two moments) by parameter number and name."""
    return {
        f"{OPTIMISER}{i}.{name}": value
        for i, p in enumerate(_parameters(optimiser))
        for name, value in optimiser.state.get(p, {}).items()
    }


def _put_moments(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The other way. Moments lie in memory as their parameter does: the same operations then round the same way."""
    for i, p in enumerate(_parameters(optimiser)):
        prefix = f"{OPTIMISER}{i}."
        mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if mine:
            optimiser.state[p] = {
                k: torch.empty_like(p).copy_(v) if v.shape == p.shape else v.clone() for k, v in mine.items()
            }
