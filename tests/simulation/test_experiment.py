from __future__ import annotations

from pathlib import Path

import pytest

from emgup_model.config import configs_dir, dump_yaml
from emgup_model.errors import ConfigError
from emgup_model.methods import EmgupConfig
from emgup_simulation.experiment import default_run_folder, load_experiment, store_path


def test_every_shipped_experiment_is_valid() -> None:
    names = sorted(p.stem for p in (configs_dir() / "experiments").glob("*.yaml"))
    assert {"default", "myo"} <= set(names)
    for name in names:
        assert load_experiment(name).name == name


def test_methods_named_in_a_list_are_resolved_and_can_be_overridden() -> None:
    experiment = load_experiment(
        "default", ["methods=[emgup_paper]", "methods.emgup_paper.ssa.epochs=9", "seeds=[1,2]"]
    )
    method = experiment.methods["emgup_paper"]
    assert isinstance(method, EmgupConfig)
    assert method.ssa.epochs == 9
    assert method.ssp.epochs == 10
    assert experiment.seeds == (1, 2)
    assert experiment.backbone.width == 64


def test_a_resolved_experiment_reads_back_as_itself(tmp_path: Path) -> None:
    experiment = load_experiment("myo", ["backbone.width=32"])
    (tmp_path / "experiment.yaml").write_text(dump_yaml(experiment))
    assert load_experiment(tmp_path / "experiment.yaml") == experiment


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.epoch=3", r"unknown key 'pretrain.epoch'"),
        ("methods=[emgup_papr]", r"unknown method 'emgup_papr'"),
        ("methods.emgup_paper.ssa.lr=1", r"ssa\.lr"),
        ("protocols=[streaming]", "protocols"),
        ("seeds=[1,1]", "different"),
        ("store=x", "either store"),
        ("folds.count=2", r"folds\.count"),
        ("federation.device=tpu", r"federation\.device"),
        ("methods=[adabn,adabn]", "different names"),
    ],
)
def test_wrong_overrides_are_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_experiment("default", [override])
    assert "\n" not in str(error.value)


def test_run_folder_and_store_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment("myo")
    assert default_run_folder(experiment, None).path == tmp_path / "runs" / "myo"
    assert store_path(experiment, default_run_folder(experiment, "out")) == tmp_path / "data" / "myo_armband"
