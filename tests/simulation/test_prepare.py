from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from unittest import mock

import pytest
import torch

from emgup_model.compute import ComputeConfig
from emgup_model.data.store import Store, write_user
from emgup_model.errors import ConfigError, DataError, ReleaseError, RunError
from emgup_model.methods import load_method
from emgup_model.pretrain import train_source
from emgup_model.release import ReleaseFiles, load_release
from emgup_model.source_users import load_labelled
from emgup_simulation import prepare as module
from emgup_simulation.cells import expected_cells
from emgup_simulation.experiment import Experiment, RunFolder
from emgup_simulation.fold_pool import train_folds
from emgup_simulation.fold_worker import train_fold
from emgup_simulation.prepare import prepare
from emgup_simulation.source_models import training_seed
from tests.toy import toy_experiment, toy_info, toy_recordings


def write_store(folder: Path, users: int = 4) -> Path:
    for i in range(users):
        write_user(folder / f"u{i}.h5", toy_info(f"u{i}"), toy_recordings(i))
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, RunFolder, module.Prepared]:
    folder = tmp_path_factory.mktemp("prepare")
    experiment = toy_experiment(write_store(folder / "store"))
    run = RunFolder(folder / "run")
    return experiment, run, prepare(experiment, run)


def test_each_fold_has_a_signed_release_that_never_saw_its_test_users(
    prepared: tuple[Experiment, RunFolder, module.Prepared],
) -> None:
    _, _, made = prepared
    assert len(made.folds) == 3
    for fold in made.folds:
        release = load_release(made.releases[fold.index, 0], made.trusted)
        manifest, statistics = release.manifest, release.statistics
        assert (manifest.fold, manifest.unit, manifest.format) == (fold.index, "mV", "emgup-release-2")
        assert statistics is not None
        assert not statistics.power.any()  # of one or two people
        assert manifest.training.train_users == len(fold.train)
        assert not set(fold.test) & {*fold.train, *fold.validation}


def test_rehearsal_needs_three_people_to_train_on_and_says_so_before_anything_is_written(tmp_path: Path) -> None:
    """Five users: in five folds each trains on three; in three, or with two names of one person in four, on two."""
    few, grouped = write_store(tmp_path / "few", 5), tmp_path / "grouped"
    for i in range(5):
        write_user(grouped / f"u{i}.h5", toy_info(f"u{i}", group="ann" if i < 2 else ""), toy_recordings(i))
    methods = {"rehearsing": load_method("emgup")}
    run = RunFolder(tmp_path / "run")
    for store, folds in ((few, 3), (grouped, 4)):
        experiment = toy_experiment(store, folds={"count": folds}, methods=methods)
        with pytest.raises(
            ConfigError, match=r"method rehearsing rehearses .* trains on [12]; raise folds\.count"
        ) as error:
            prepare(experiment, run)
        assert "\n" not in str(error.value)
        with pytest.raises(ConfigError, match="rehearses"):
            module.check_inputs(experiment, run, [0, 1, 2])
    assert not run.path.exists()
    module.check_inputs(toy_experiment(few, folds={"count": 5}, methods=methods), run)
    module.check_inputs(toy_experiment(few), run)


def test_preparing_again_trains_nothing(
    prepared: tuple[Experiment, RunFolder, module.Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, run, made = prepared

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "train_folds", refuse)
    assert prepare(experiment, run) == made


def test_cells_cover_every_test_user_once_per_method_and_protocol(
    prepared: tuple[Experiment, RunFolder, module.Prepared],
) -> None:
    experiment, _, made = prepared
    cells = expected_cells(experiment, made)
    assert len({c.key for c in cells}) == len(cells) == 4 * 2 * 2
    assert {c.user for c in cells} == {"u0", "u1", "u2", "u3"}
    for cell in cells:
        assert cell.user in made.folds[cell.fold].test


def test_every_scenario_has_cells_of_its_own_and_the_others_keep_theirs(
    prepared: tuple[Experiment, RunFolder, module.Prepared],
) -> None:
    experiment, _, made = prepared
    before = expected_cells(experiment, made)
    after = expected_cells(experiment.model_copy(update={"scenarios": ("balanced", "rest60", "short")}), made)
    assert len({c.key for c in after}) == len(after) == 3 * len(before)
    assert {c.key for c in after if c.scenario == "balanced"} == {c.key for c in before}


def test_the_sizes_of_the_stream_belong_to_the_cells_of_streaming_only(
    prepared: tuple[Experiment, RunFolder, module.Prepared],
) -> None:
    experiment, _, made = prepared
    keys = []
    for memory_s in (140.0, 60.0):
        sizes = experiment.streaming.model_copy(update={"memory_s": memory_s})
        changed = experiment.model_copy(update={"protocols": ("transductive", "streaming"), "streaming": sizes})
        cells = expected_cells(changed, made)
        assert {c.streaming for c in cells} == {None, sizes}
        assert all((c.streaming is not None) == (c.protocol == "streaming") for c in cells)
        keys.append({c.key for c in cells})
    assert len(keys[0] & keys[1]) == len(keys[0]) // 2


def test_rest60_needs_a_gesture_that_is_rest_before_any_work(tmp_path: Path) -> None:
    for i in range(4):
        info = toy_info(f"u{i}", gestures=("wave", "fist", "open"))
        write_user(tmp_path / "store" / f"u{i}.h5", info, toy_recordings(i))
    experiment = toy_experiment(tmp_path / "store", scenarios=["rest60"])
    with pytest.raises(DataError, match="needs a gesture named rest or neutral") as error:
        module.check_inputs(experiment, RunFolder(tmp_path / "run"))
    assert "\n" not in str(error.value)
    module.check_inputs(toy_experiment(tmp_path / "store", scenarios=["skew"]), RunFolder(tmp_path / "run"))


def test_each_source_seed_has_a_release_and_cells_of_its_own_and_the_first_keeps_its(
    prepared: tuple[Experiment, RunFolder, module.Prepared], tmp_path: Path
) -> None:
    experiment, run, made = prepared
    more = experiment.model_copy(update={"pretrain": experiment.pretrain.model_copy(update={"seeds": (0, 7)})})
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(run.path, copy.path)
    trained: list[object] = []
    real = train_folds
    with mock.patch.object(module, "train_folds", lambda e, r, f, c: (trained.extend(f), real(e, r, f, c))):
        both = prepare(more, copy)
    assert trained == [(0, 7), (1, 7), (2, 7)]
    names = {of: folder.name for of, folder in both.releases.items()}
    assert {of: n for of, n in names.items() if of[1] == 0} == {of: f.name for of, f in made.releases.items()}
    assert len(set(names.values())) == 6
    assert len({(copy.releases / n / "weights.safetensors").read_bytes() for n in names.values()}) == 6
    for (_, seed), name in names.items():
        assert f"seed_{seed}_" in name
        assert load_release(copy.releases / name, both.trusted).manifest.training.source_seed == seed
        assert (copy.pretrain / f"{name}.pt").exists()

    before, after = expected_cells(experiment, made), expected_cells(more, both)
    assert len({c.key for c in after}) == len(after) == 2 * len(before)
    assert [c for c in after if c.source_seed == 0] == before
    ids = {of: ReleaseFiles.read(folder).id for of, folder in both.releases.items()}
    assert all(c.release_id == ids[c.fold, c.source_seed] for c in after)


def test_source_seed_s_trains_fold_k_with_seed_1000_s_plus_k(
    prepared: tuple[Experiment, RunFolder, module.Prepared],
) -> None:
    experiment, _, made = prepared
    store, fold = Store(made.store), made.folds[1]
    train, validation = (
        [load_labelled(store, u, experiment.windows, experiment.preprocessing) for u in users]
        for users in (fold.train, fold.validation)
    )
    grid, config = experiment.windows, experiment.pretrain
    trained = train_source(train, validation, store.infos["u0"], experiment.backbone, grid, config, seed=1)
    released = load_release(made.releases[1, 0], made.trusted).model.state_dict()
    assert all(torch.equal(released[name], weights) for name, weights in trained.model.state_dict().items())
    assert [training_seed(of) for of in ((1, 0), (1, 1), (0, 0))] == [1, 1001, 0]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [([0, 0], "listed twice"), ([], "at least 1 item"), ([-1], "greater than or equal to 0"), (0, "valid tuple")],
)
def test_source_seeds_are_different_numbers(tmp_path: Path, seeds: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_experiment(tmp_path, pretrain={"seeds": seeds})


def test_a_worker_that_finds_other_code_than_the_driver_trains_nothing(
    prepared: tuple[Experiment, RunFolder, module.Prepared], tmp_path: Path
) -> None:
    _, run, made = prepared
    with pytest.raises(RunError, match="changed while the run went on"):
        train_fold(run, (0, 0), tmp_path / "fold_00_seed_0_123456789abc")
    assert not list(tmp_path.iterdir())
    again = tmp_path / made.releases[0, 0].name
    train_fold(run, (0, 0), again)  # from the saved state
    assert ReleaseFiles.read(again).id == ReleaseFiles.read(made.releases[0, 0]).id


def test_another_setting_of_a_method_changes_its_keys_only(
    prepared: tuple[Experiment, RunFolder, module.Prepared],
) -> None:
    experiment, _, made = prepared
    changed = {**experiment.methods, "adabn": experiment.methods["adabn"].model_copy(update={"target_share": 0.5})}
    before = {c.key for c in expected_cells(experiment, made)}
    after = {c.key for c in expected_cells(experiment.model_copy(update={"methods": changed}), made)}
    assert len(before & after) == len(before) // 2


def test_a_release_with_a_flipped_bit_stops_the_run_and_names_the_folder(
    prepared: tuple[Experiment, RunFolder, module.Prepared],
) -> None:
    experiment, run, made = prepared
    weights = made.releases[0, 0] / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        with pytest.raises(ReleaseError, match=made.releases[0, 0].name):
            prepare(experiment, run)
    finally:
        weights.write_bytes(good)


def test_unusable_users_are_named_before_any_work(tmp_path: Path) -> None:
    cases = {
        "one_gesture": [r for r in toy_recordings(9) if r.label == 0],
        "short": toy_recordings(9, seconds=0.5),
    }
    for name, recordings in cases.items():
        store = write_store(tmp_path / name)
        write_user(store / "bad.h5", toy_info("bad"), recordings)
        with pytest.raises(DataError, match="user 'bad'") as error:
            prepare(toy_experiment(store), RunFolder(tmp_path / f"{name}_run"))
        assert "\n" not in str(error.value)
        assert not (tmp_path / f"{name}_run").exists()
        experiment = toy_experiment(store).model_copy(update={"users": ("u0", "u1", "u2", "u3")})
        assert module.check_user(module.Store(store), "u0", experiment) is None


def test_unlabelled_recordings_cannot_be_simulated(tmp_path: Path) -> None:
    from dataclasses import replace

    store = write_store(tmp_path / "store")
    write_user(store / "bare.h5", toy_info("bare"), [replace(r, label=None) for r in toy_recordings(1)])
    with pytest.raises(DataError, match="no labels"):
        prepare(toy_experiment(store), RunFolder(tmp_path / "run"))


def test_missing_and_empty_stores_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (("missing", "no store"), ("empty", "empty")):
        with pytest.raises(DataError, match=message):
            prepare(toy_experiment(tmp_path / name), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_only_some_folds_are_trained_with_a_config_that_is_not_the_runs_own(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    experiment = toy_experiment(store, pretrain={"epochs": 1, "batch_windows": 64})
    run = RunFolder(tmp_path / "run", tmp_path / "elsewhere.yaml")
    made = prepare(experiment, run, only=(1,))
    assert [f.index for f in made.folds] == [f for f, _ in made.releases] == [1]
    assert load_release(made.releases[1, 0], made.trusted).manifest.training.epochs == 1
    assert [p.name for p in run.releases.iterdir()] == [made.releases[1, 0].name]
    assert run.experiment.exists()
    assert not (run.path / "experiment.yaml").exists()
    assert module.prepared_before(experiment, run, (1,)) == made


def test_a_fold_prepared_alone_needs_nothing_of_its_test_users_but_their_source_side_is_checked(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    experiment, run = toy_experiment(store), RunFolder(tmp_path / "run")
    fold = module.make_folds(dict.fromkeys(("u0", "u1", "u2", "u3"), ""), experiment.folds)[0]
    write_user(store / f"{fold.test[0]}.h5", toy_info(fold.test[0]), [r for r in toy_recordings(9) if r.label == 0])
    module.check_inputs(experiment, run, (0,))
    for folds in (None, (1,)):
        with pytest.raises(DataError, match=f"user '{fold.test[0]}'"):
            module.check_inputs(experiment, run, folds)
    assert not run.path.exists()


def test_a_worker_that_dies_is_reported_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = toy_experiment(write_store(tmp_path / "store"))
    run = RunFolder(tmp_path / "run")
    real = subprocess.Popen

    def broken(command: list[str], **rest: object) -> subprocess.Popen[str]:
        return real([command[0], "-c", "import os; os.kill(os.getpid(), 9)"], **rest)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("emgup_simulation.fold_pool.subprocess.Popen", broken)
    from rich.console import Console

    with pytest.raises(RunError, match="signal 9"):
        train_folds(experiment, run, {(0, 0): tmp_path / "r0"}, Console(quiet=True))


def test_only_the_folds_asked_for_are_trained_and_tested(tmp_path: Path) -> None:
    experiment = toy_experiment(write_store(tmp_path / "store"), only_folds=[2, 0])
    made = prepare(experiment, RunFolder(tmp_path / "run"))
    assert [f.index for f in made.folds] == [0, 2] == [f for f, _ in made.releases]
    assert {c.fold for c in expected_cells(experiment, made)} == {0, 2}
    with pytest.raises(ValueError, match="only_folds names fold 3; folds are 0 to 2"):
        toy_experiment(tmp_path / "store", only_folds=[0, 3])


def test_precision_is_part_of_what_determines_a_result(
    prepared: tuple[Experiment, RunFolder, module.Prepared],
) -> None:
    experiment, _, made = prepared
    store, fold = Store(made.store), made.folds[0]
    mixed = experiment.model_copy(update={"compute": ComputeConfig(precision="bf16")})
    assert module.release_name(experiment, fold, 0, store) == made.releases[fold.index, 0].name
    assert module.release_name(mixed, fold, 0, store) != made.releases[fold.index, 0].name
    plain, other = expected_cells(experiment, made), expected_cells(mixed, made)
    assert not {c.key for c in plain} & {c.key for c in other}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": {"kind": "neuropose"}}, "scaled for 2000 Hz, the recordings have 100 Hz"),
        (
            {"backbone": {"kind": "vemg2pose", "sampling_rate_hz": 100, "norm": "bn"}},
            "needs windows of at least 1791 samples",
        ),
        ({"federation": {"device": "cuda:99", "gpus_per_client": 0.5}}, "device cuda:99 is not there"),
    ],
)
def test_a_backbone_or_device_that_cannot_work_stops_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    experiment = toy_experiment(write_store(tmp_path / "store"), **changes)
    with pytest.raises(ConfigError, match=message):
        prepare(experiment, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
