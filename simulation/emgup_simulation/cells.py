"""The cells of a run: one result per method, protocol, scenario, user and seeds, keyed by what determines it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from emgup_model.config import digest
from emgup_model.data.store import Store, UserInfo
from emgup_model.provenance import result_identity
from emgup_model.release import ReleaseFiles
from emgup_server.ledger import Cell
from emgup_simulation.experiment import Experiment
from emgup_simulation.prepare import Prepared
from emgup_simulation.source_models import FoldSeed


def expected_cells(experiment: Experiment, prepared: Prepared) -> list[Cell]:
    """Every cell of the experiment, users outermost so that each node keeps busy with one user's file.

    A user with one session has no ``later_sessions`` cell.
    """
    return _cells(experiment, prepared, ((fold.index, user) for fold in prepared.folds for user in fold.test))


def validation_cells(experiment: Experiment, prepared: Prepared) -> list[Cell]:
    """The same for the *validation* users of the prepared folds, each with the release of that fold, for tuning.

    Those users stopped the fold's source training and were not trained on. Test users' files are not opened.
    """
    return _cells(experiment, prepared, ((fold.index, user) for fold in prepared.folds for user in fold.validation))


def _cells(experiment: Experiment, prepared: Prepared, subjects: Iterable[tuple[int, str]]) -> list[Cell]:
    """The cells of (fold, user) pairs."""
    store = Store(prepared.store)
    cells: list[Cell] = []
    ids = {trained: ReleaseFiles.read(folder).id for trained, folder in prepared.releases.items()}
    for fold, user in subjects:
        with store.open(user) as file:
            info, sessions = file.info, len({r.session for r in file.recordings})
        for source_seed in experiment.pretrain.seeds:
            cells += _cells_of(experiment, info, sessions, (fold, source_seed), ids[fold, source_seed])
    return cells


def _cells_of(
    experiment: Experiment, info: UserInfo, sessions: int, trained: FoldSeed, release_id: str
) -> Iterator[Cell]:
    fold, source_seed = trained
    protocols = [p for p in experiment.protocols if p != "later_sessions" or sessions > 1]
    for protocol, scenario, (method, config), seed in product(
        protocols, experiment.scenarios, experiment.methods.items(), experiment.seeds
    ):
        streaming = experiment.streaming if protocol == "streaming" else None
        identity = {
            **result_identity(),
            "release": release_id,
            "user": info.user,
            "recordings": info.content_sha256,
            "method": method,
            "config": config.model_dump(mode="json"),
            "protocol": protocol,
            "scenario": scenario,
            "source_seed": source_seed,
            "seed": seed,
            **({"streaming": streaming.model_dump(mode="json")} if streaming else {}),
            **({"precision": experiment.compute.precision} if experiment.compute.precision != "fp32" else {}),
        }
        yield Cell(
            dataset=info.dataset,
            backbone=experiment.backbone.kind,
            method=method,
            config=config,
            protocol=protocol,
            scenario=scenario,
            fold=fold,
            user=info.user,
            source_seed=source_seed,
            seed=seed,
            release_id=release_id,
            key=digest(identity),
            streaming=streaming,
        )
