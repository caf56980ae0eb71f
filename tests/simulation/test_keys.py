"""What a change of the code does to the keys of cells, adaptations, releases and deployed runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from emgup_model.data.store import Store
from emgup_model.methods import load_method
from emgup_model.personalize import adaptation_key
from emgup_model.release import load_release
from emgup_model.task import Task, load_user
from emgup_server.deployment.job import Job
from emgup_simulation.cells import expected_cells
from emgup_simulation.prepare import Prepared, prepare
from emgup_simulation.source_models import release_name
from tests.federation import Toy, make_toy
from tests.packages import change


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, Prepared]:
    toy = make_toy(tmp_path_factory.mktemp("keys"))
    return toy, prepare(toy.experiment, toy.run)


def keys(made: tuple[Toy, Prepared]) -> tuple[object, ...]:
    """Keys of (cells, an adaptation, a deployed run's cell), then names of releases."""
    toy, prepared = made
    store, fold = Store(prepared.store), prepared.folds[0]
    release = load_release(prepared.releases[0, 0], prepared.trusted)
    task = Task(load_method("adabn"), "transductive", "balanced", 0)
    windows = load_user(store.path(fold.test[0]), release.manifest, task)
    job = Job(release="r", release_id=release.id, methods={"adabn": load_method("adabn")})
    return (
        [c.key for c in expected_cells(toy.experiment, prepared)],
        adaptation_key(release, task, windows),
        job.cell("adabn"),
        release_name(toy.experiment, fold, 0, store),
    )


def changed(made: tuple[Toy, Prepared], before: tuple[object, ...]) -> list[bool]:
    """Which of the keys are others than before; of cells, all of them or none."""
    now = keys(made)
    assert isinstance(before[0], list)
    assert isinstance(now[0], list)
    assert len({a == b for a, b in zip(before[0], now[0], strict=True)}) == 1
    return [a != b for a, b in zip(before, now, strict=True)]


def test_one_line_of_a_method_changes_results_and_no_release(made: tuple[Toy, Prepared], package: Path) -> None:
    before = keys(made)
    change(package / "methods" / "adabn.py", "torch.no_grad", "torch.enable_grad")
    assert changed(made, before) == [True, True, True, False]


def test_one_line_of_source_training_changes_everything(made: tuple[Toy, Prepared], package: Path) -> None:
    before = keys(made)
    change(package / "pretrain.py", "model.train()", "model.eval()")
    assert changed(made, before) == [True, True, True, True]


def test_comments_and_docstrings_change_nothing(made: tuple[Toy, Prepared], package: Path) -> None:
    before = keys(made)
    for name in ("methods/adabn.py", "pretrain.py", "data/windows.py"):
        text = (package / name).read_text()
        (package / name).write_text(text.replace('"""', '"""In other words: ', 1) + "\n# a remark\n")
    change(package / "pretrain.py", "", "# and another\n")
    assert changed(made, before) == [False, False, False, False]


def test_libraries_are_part_of_every_key(made: tuple[Toy, Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(made)
    monkeypatch.setattr("emgup_model.provenance.torch.__version__", "0.0.1")
    assert changed(made, before) == [True, True, True, True]
