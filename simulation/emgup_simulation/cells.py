"""The cells of a run: one result per method, protocol, seed and test user, each keyed by what determines it."""

from __future__ import annotations

from emgup_model import __version__
from emgup_model.config import digest
from emgup_model.data.store import Store
from emgup_model.release import ReleaseFiles
from emgup_server.ledger import Cell
from emgup_simulation.experiment import Experiment
from emgup_simulation.prepare import Prepared


def expected_cells(experiment: Experiment, prepared: Prepared) -> list[Cell]:
    """Every cell of the experiment, users outermost so that each node keeps busy with one user's file.

    A user with one session has no ``later_sessions`` cell.
    """
    store = Store(prepared.store)
    cells = []
    for fold in prepared.folds:
        release_id = ReleaseFiles.read(prepared.releases[fold.index]).id
        for user in fold.test:
            with store.open(user) as file:
                info, sessions = file.info, len({r.session for r in file.recordings})
            for protocol in experiment.protocols:
                if protocol == "later_sessions" and sessions < 2:
                    continue
                for method, config in experiment.methods.items():
                    for seed in experiment.seeds:
                        identity = {
                            "version": __version__,
                            "release": release_id,
                            "user": user,
                            "recordings": info.content_sha256,
                            "method": method,
                            "config": config.model_dump(mode="json"),
                            "protocol": protocol,
                            "seed": seed,
                        }
                        cells.append(
                            Cell(
                                dataset=info.dataset,
                                backbone=experiment.backbone.kind,
                                method=method,
                                config=config,
                                protocol=protocol,
                                fold=fold.index,
                                user=user,
                                seed=seed,
                                release_id=release_id,
                                key=digest(identity),
                            )
                        )
    return cells
