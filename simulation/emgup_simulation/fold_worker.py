"""``python -m emgup_simulation.fold_worker RUN FOLD SEED RELEASE [CONFIG]``: train a source model, sign its release.

CONFIG is the resolved experiment, where it is not the run's own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from emgup_model.data.folds import read_folds
from emgup_model.data.store import Store
from emgup_model.errors import EmgupError, RunError
from emgup_model.files import write_atomic
from emgup_model.keys import read_signing_key
from emgup_model.pretrain import Epoch, Trained, train_source
from emgup_model.release import Training, sign_release
from emgup_model.source_users import load_labelled
from emgup_simulation.experiment import Experiment, RunFolder, load_experiment, store_path
from emgup_simulation.source_models import FoldSeed, of_one_seed, progress_file, release_name, training_seed


def train_fold(run: RunFolder, trained_for: FoldSeed, release: Path) -> None:
    """Train on the fold's source users with a source seed, select on its validation users, write the signed release.

    Raises:
        RunError: the code, or what is to be trained, changed since the driver named the release.
    """
    fold_index, source_seed = trained_for
    experiment = load_experiment(run.experiment)
    fold = next(f for f in read_folds(run.folds) if f.index == fold_index)
    store = Store(store_path(experiment, run))
    if release_name(experiment, fold, source_seed, store) != release.name:
        raise RunError("the code or the settings changed while the run went on; start it again")
    torch.set_num_threads(1)

    def load(users: tuple[str, ...]) -> list:  # type: ignore[type-arg]
        return [
            load_labelled(store, u, experiment.windows, experiment.preprocessing, experiment.pretrain.sessions)
            for u in users
        ]

    parent = os.getppid()

    def on_epoch(epoch: Epoch) -> None:
        write_atomic(progress_file(run, trained_for), json.dumps([epoch.number, epoch.of, epoch.validation_accuracy]))
        if os.getppid() != parent:  # the driver was killed; what is done is saved
            sys.exit(1)

    trained = train_source(
        load(fold.train),
        load(fold.validation),
        store.infos[fold.train[0]],
        experiment.backbone,
        experiment.windows,
        of_one_seed(experiment, source_seed),
        seed=training_seed(trained_for),
        state_file=run.pretrain / f"{release.name}.pt",
        identity={"release": release.name},
        on_epoch=on_epoch,
        device=experiment.federation.device,
        compute=experiment.compute,
    )
    _write_release(experiment, run, store, trained_for, len(fold.train), trained, release)


def _write_release(
    experiment: Experiment, run: RunFolder, store: Store, of: FoldSeed, users: int, trained: Trained, folder: Path
) -> None:
    fold, source_seed = of
    info = store.infos[store.users[0]]
    fields = {
        "dataset": info.dataset,
        "fold": fold,
        "backbone": experiment.backbone,
        "windows": experiment.windows,
        "preprocessing": experiment.preprocessing,
        "scale": trained.scale,
        "sampling_rate_hz": info.sampling_rate_hz,
        "channels": info.channels,
        "unit": info.unit,
        "gestures": info.gestures,
        "training": Training(
            epochs=trained.epochs,
            best_epoch=trained.best_epoch,
            validation_accuracy=trained.validation_accuracy,
            train_users=users,
            config_sha256=trained.config_sha256,
            source_seed=source_seed,
        ),
    }
    sign_release(trained.model, fields, read_signing_key(run.signing_key), trained.statistics).write(folder)


def main(argv: list[str]) -> int:
    """Entry point; an error the user can fix is one line on stderr."""
    run, fold, source_seed, release, *config = argv
    try:
        train_fold(RunFolder(Path(run), *map(Path, config)), (int(fold), int(source_seed)), Path(release))
    except EmgupError as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
