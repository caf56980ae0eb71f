"""A tiny federation for tests: four toy users in three folds, with signed releases of untrained networks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import yaml
from rich.console import Console

from emgup_model.data.store import write_user
from emgup_model.keys import read_signing_key
from emgup_server.exchange import Limits
from emgup_server.ledger import Cell
from emgup_simulation import prepare as preparation
from emgup_simulation.cells import expected_cells
from emgup_simulation.experiment import Experiment, RunFolder, load_experiment
from emgup_simulation.source_models import FoldSeed
from tests.toy import make_release, toy_info, toy_recordings

FAST = Limits(poll_s=0.001, reply_timeout_s=30, retry_s=0.01, max_retry_s=0.02, node_wait_s=2, settle_s=0.01)


@dataclass(frozen=True)
class Toy:
    """A prepared run: nothing is left to do but the federation."""

    experiment: Experiment
    run: RunFolder
    run_config: dict[str, str]
    cells: tuple[Cell, ...]

    @property
    def releases(self) -> dict[str, Path]:
        """Folder of every release."""
        ids = {(c.fold, c.source_seed): c.release_id for c in self.cells}
        prepared = preparation.prepare(self.experiment, self.run)
        return {ids[trained]: folder for trained, folder in prepared.releases.items()}


def make_store(folder: Path, users: int = 4) -> Path:
    """Recording files of ``users`` toy users."""
    for i in range(users):
        write_user(folder / f"u{i}.h5", toy_info(f"u{i}"), toy_recordings(i, gain=1 + 0.3 * i))
    return folder


def make_sessions_store(folder: Path, users: int = 4) -> Path:
    """The same users with a second session."""
    for i in range(users):
        later = [replace(r, name=f"later_{r.name}", session=1) for r in toy_recordings(10 + i)]
        write_user(folder / f"u{i}.h5", toy_info(f"u{i}"), [*toy_recordings(i, gain=1 + 0.3 * i), *later])
    return folder


def make_toy(
    folder: Path, methods: Sequence[str] | Mapping[str, object] = ("source_only", "adabn"), **settings: object
) -> Toy:
    """Store, experiment file and a prepared run folder below ``folder``."""
    store = folder / "store"
    if not store.exists():
        make_store(store)
    plain = {
        "name": "toy",
        "store": str(store),
        "windows": {"length": 20, "hop": 10, "sequence_length": 8},
        "preprocessing": {"highpass_hz": None},
        "backbone": {"kind": "cnn", "width": 8, "embedding_dim": 8},
        "folds": {"count": 3},
        "methods": dict(methods) if isinstance(methods, Mapping) else list(methods),
        **settings,
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(plain))
    experiment, run = load_experiment(path), RunFolder(folder / "run")
    with mock.patch.object(preparation, "train_folds", _instead_of_training):
        prepared = preparation.prepare(experiment, run)
    run_config = {"experiment": str(path), "overrides": "", "out": str(run.path)}
    return Toy(experiment, run, run_config, tuple(expected_cells(experiment, prepared)))


def copy_of(toy: Toy, folder: Path) -> Toy:
    """The same prepared run in a folder of its own; the store is shared."""
    shutil.copytree(toy.run.path, folder)
    return Toy(toy.experiment, RunFolder(folder), {**toy.run_config, "out": str(folder)}, toy.cells)


def _instead_of_training(
    experiment: Experiment, run: RunFolder, releases: dict[FoldSeed, Path], console: Console
) -> None:
    key = read_signing_key(run.signing_key)
    for (fold, source_seed), folder in releases.items():
        make_release(key, source_seed=source_seed, fold=fold).write(folder)
