"""What must exist before a federation starts: recordings, a split, a signed release per fold and seed. Idempotent."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from emgup_model.compute import resolve_device
from emgup_model.config import digest, dump_yaml
from emgup_model.data.folds import Fold, make_folds, read_folds
from emgup_model.data.labels import read_labels
from emgup_model.data.recording import RecordingInfo
from emgup_model.data.store import Store
from emgup_model.data.synthetic import synthesize
from emgup_model.errors import ConfigError, DataError, EmgupError
from emgup_model.evaluation.scenarios import rest_gesture
from emgup_model.files import write_atomic
from emgup_model.keys import create_signing_key, read_trusted, write_trusted
from emgup_model.methods import EmgupConfig
from emgup_model.release import load_release
from emgup_model.signal_statistics import FEWEST_PEOPLE
from emgup_simulation.experiment import Experiment, RunFolder, resolved, store_path
from emgup_simulation.fold_pool import train_folds
from emgup_simulation.progress import progress_bar
from emgup_simulation.source_models import FoldSeed, release_name

TRUSTED = "trusted_release_keys.txt"


@dataclass(frozen=True)
class Prepared:
    """Where everything is: the store, the split, a release folder per fold and seed, and the keys clients trust."""

    store: Path
    folds: tuple[Fold, ...]
    releases: dict[FoldSeed, Path]
    trusted: tuple[bytes, ...]


def prepare(
    experiment: Experiment, run: RunFolder, console: Console | None = None, only: Collection[int] | None = None
) -> Prepared:
    """Make what is missing and check what is there.

    Args:
        experiment: what is to be run.
        run: where.
        console: shows progress; nothing by default.
        only: folds to prepare *for their source side*: other folds are not trained, and of users who are in none of
            these folds' train and validation sets, the header of the file is all that is read.

    Raises:
        ConfigError: a method rehearses gestures, and a fold trains on fewer than three people.
        DataError: the store is missing or empty, or a user cannot take part (one gesture, too short, no labels).
        RunError: training a fold failed.
    """
    console = console or Console(quiet=True)
    recordings = _recordings(experiment, run, console)
    store = Store(recordings)
    split, folds = _checked_split(experiment, run, store, only)
    run.path.mkdir(parents=True, exist_ok=True)
    write_atomic(run.experiment, dump_yaml(resolved(experiment)))
    if split.unsaved is not None:
        write_atomic(run.folds, split.unsaved)
    trusted = (create_signing_key(run.signing_key),)
    key_list = run.client_home / TRUSTED
    if not key_list.exists() or read_trusted(key_list) != trusted:
        run.client_home.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_trusted(key_list, trusted)
    releases = _releases(experiment, run, folds, store)
    missing = {trained: folder for trained, folder in releases.items() if not _usable(folder, trusted)}
    if missing:
        train_folds(experiment, run, missing, console)
    return Prepared(recordings, folds, releases, trusted)


def prepared_before(experiment: Experiment, run: RunFolder, only: Collection[int]) -> Prepared:
    """What :func:`prepare` with the same arguments made, without checking it again."""
    store = Store(store_path(experiment, run))
    folds = tuple(f for f in read_folds(run.folds) if f.index in only)
    releases = _releases(experiment, run, folds, store)
    return Prepared(store.folder, folds, releases, tuple(read_trusted(run.client_home / TRUSTED)))


def check_inputs(experiment: Experiment, run: RunFolder, only: Collection[int] | None = None) -> None:
    """Raise what :func:`prepare` would raise about the recordings, before anything is written."""
    if experiment.synthetic is None:
        _checked_split(experiment, run, Store(store_path(experiment, run)), only)


def check_user(store: Store, user: str, experiment: Experiment) -> None:
    """Raise DataError unless the user can be trained and tested on: labels, two gestures, one whole sequence."""
    with store.open(user) as file:
        first = min(r.session for r in file.recordings)
        session = [r for r in file.recordings if r.session == first]
    labels = read_labels(store.path(user))
    seen = {int(g) for r in session if r.name in labels for g in np.unique(labels[r.name])}
    where = f"user '{user}' in {store.folder}"
    if not seen:
        raise DataError(f"{where} has no labels; a simulation needs them to train and to test")
    if len(seen) < 2:
        raise DataError(f"{where} shows one gesture only; drop the user (users=[…] names those to keep)")
    if not any(_windows_in(r, experiment) >= experiment.windows.sequence_length for r in session):
        w = experiment.windows
        need = w.length + (w.sequence_length - 1) * w.hop
        raise DataError(
            f"{where} has no recording of {need} samples ({w.sequence_length} windows, one sequence); "
            "drop the user or set a smaller windows.sequence_length"
        )


def _releases(experiment: Experiment, run: RunFolder, folds: Sequence[Fold], store: Store) -> dict[FoldSeed, Path]:
    """Release folders, seeds outermost: with several, the first seed's are trained first."""
    return {
        (fold.index, seed): run.releases / release_name(experiment, fold, seed, store)
        for seed in experiment.pretrain.seeds
        for fold in folds
    }


def _recordings(experiment: Experiment, run: RunFolder, console: Console) -> Path:
    store = store_path(experiment, run)
    if experiment.synthetic is None:
        return store
    with progress_bar(console) as bar:
        task = bar.add_task("synthetic cohort, users", total=None, note="")
        synthesize(experiment.synthetic, store, lambda done, total: bar.update(task, completed=done, total=total))
    return store


@dataclass(frozen=True)
class _Split:
    """A split of the users, and what folds.json is to hold where it holds something else."""

    folds: tuple[Fold, ...]
    unsaved: str | None


def _checked_split(
    experiment: Experiment, run: RunFolder, store: Store, only: Collection[int] | None
) -> tuple[_Split, tuple[Fold, ...]]:
    """(the split, the folds asked for), once their users are checked; nothing is written."""
    info = store.infos[store.users[0]]
    experiment.backbone.check(experiment.windows.length, info.channels, info.sampling_rate_hz)
    resolve_device(experiment.federation.device)
    gestures = info.gestures
    if "rest60" in experiment.scenarios and rest_gesture(gestures) is None:
        raise DataError(f"scenario rest60 needs a gesture named rest or neutral; {store.folder} has none")
    users = _chosen_users(experiment, store)
    if only is None:
        for user in users:
            check_user(store, user, experiment)
    split = _split(experiment, run, {u: store.infos[u].group for u in users})
    if only is None:
        chosen = experiment.only_folds
        folds = tuple(f for f in split.folds if chosen is None or f.index in chosen)
        _check_rehearsal(experiment, folds, store)
        return split, folds
    folds = tuple(f for f in split.folds if f.index in only)
    _check_rehearsal(experiment, folds, store)
    for user in sorted({u for f in folds for u in (*f.train, *f.validation)}):
        check_user(store, user, experiment)
    return split, folds


def _check_rehearsal(experiment: Experiment, folds: tuple[Fold, ...], store: Store) -> None:
    """Raise ConfigError where a method rehearses gestures, and a fold has too few people for a release to know any."""
    name = next((n for n, m in experiment.methods.items() if isinstance(m, EmgupConfig) and m.replay), None)
    if name is None:
        return
    for fold in folds:
        people = len({store.infos[user].fold_group for user in fold.train})
        if people < FEWEST_PEOPLE:
            raise ConfigError(
                f"method {name} rehearses gestures, of which a release tells nothing that fewer than {FEWEST_PEOPLE} "
                f"people showed, and fold {fold.index} trains on {people}; raise folds.count, add people, or set "
                f"methods.{name}.replay=null"
            )


def _chosen_users(experiment: Experiment, store: Store) -> list[str]:
    if experiment.users is None:
        return list(store.users)
    for user in experiment.users:
        store.path(user)  # names the unknown one
    return sorted(set(experiment.users))


def _split(experiment: Experiment, run: RunFolder, groups: dict[str, str]) -> _Split:
    """The saved split if it is of the same users and settings, else a new one."""
    made_from = digest({"folds": experiment.folds.model_dump(mode="json"), "groups": groups})
    if run.folds.exists():
        saved = read_folds(run.folds)
        if json.loads(run.folds.read_text()).get("made_from") == made_from:
            return _Split(saved, None)
    folds = make_folds(groups, experiment.folds)
    plain = {"made_from": made_from, "folds": [f.model_dump(mode="json") for f in folds]}
    return _Split(folds, json.dumps(plain, indent=1) + "\n")


def _usable(folder: Path, trusted: tuple[bytes, ...]) -> bool:
    """Whether the release is complete; one that is there but does not verify is an error, not a reason to retrain."""
    if not (folder / "manifest.json").exists():
        return False
    try:
        load_release(folder, trusted)
    except EmgupError as e:
        raise type(e)(f"{e} (delete {folder} to train it again)") from None
    return True


def _windows_in(recording: RecordingInfo, experiment: Experiment) -> int:
    return max(0, (recording.n_samples - experiment.windows.length) // experiment.windows.hop + 1)
