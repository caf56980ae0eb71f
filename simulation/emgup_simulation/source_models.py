"""One source model per fold and source seed: what it is trained with, and what it and its files are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emgup_model.compute import PLAIN
from emgup_model.config import digest
from emgup_model.data.folds import Fold
from emgup_model.data.store import Store
from emgup_model.pretrain import PretrainConfig
from emgup_model.provenance import training_identity
from emgup_simulation.experiment import Experiment, RunFolder

FoldSeed = tuple[int, int]
"""(fold, source seed): what one source model is trained for."""

SEEDS_APART = 1000


def of_one_seed(experiment: Experiment, source_seed: int) -> PretrainConfig:
    """The source training of one seed: what determines its release, whichever seeds are trained besides."""
    return experiment.pretrain.model_copy(update={"seeds": (source_seed,)})


def training_seed(trained: FoldSeed) -> int:
    """Seed of initialisation, sampling and dropout, so that no two folds start from the same network."""
    fold, source_seed = trained
    return source_seed * SEEDS_APART + fold


def release_name(experiment: Experiment, fold: Fold, source_seed: int, store: Store) -> str:
    """Folder name of a release: fold, source seed and a hash of everything that determines its weights."""
    identity: dict[str, Any] = {
        part: getattr(experiment, part).model_dump(mode="json") for part in ("windows", "preprocessing", "backbone")
    }
    identity["pretrain"] = of_one_seed(experiment, source_seed).model_dump(mode="json")
    identity |= training_identity()
    if experiment.compute != PLAIN:
        identity["compute"] = experiment.compute.model_dump(mode="json")
    identity["fold"] = fold.index
    identity["seed"] = training_seed((fold.index, source_seed))
    identity["holds"] = ["weights", "signal statistics"]
    for part in ("train", "validation"):
        identity[part] = [[u, store.infos[u].content_sha256] for u in getattr(fold, part)]
    return f"{trained_name((fold.index, source_seed))}_{digest(identity)[:12]}"


def trained_name(trained: FoldSeed) -> str:
    """``fold_00_seed_0``: how files about one source training are called."""
    fold, source_seed = trained
    return f"fold_{fold:02d}_seed_{source_seed}"


def progress_file(run: RunFolder, trained: FoldSeed) -> Path:
    """Where a worker reports its last finished epoch."""
    return run.pretrain / f"{trained_name(trained)}.progress.json"


def log_file(run: RunFolder, trained: FoldSeed) -> Path:
    """What a worker printed."""
    return run.pretrain / f"{trained_name(trained)}.log"
