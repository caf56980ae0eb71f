from __future__ import annotations

from pathlib import Path

import pytest

from emgup_model.backbones import CnnConfig
from emgup_model.config import configs_dir, digest, dump_yaml
from emgup_model.errors import ConfigError
from emgup_model.methods import AdaBnConfig, EmgupConfig, load_method
from emgup_model.methods.ssp import SspConfig
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


def written(folder: Path, methods: str) -> Path:
    """An experiment file whose methods are the given YAML mapping."""
    path = folder / "variants.yaml"
    path.write_text(f"name: variants\nsynthetic: {{}}\nmethods: {methods}\n")
    return path


def test_a_method_may_extend_a_shipped_one_and_change_only_what_it_says(tmp_path: Path) -> None:
    path = written(tmp_path, "{ssp_only: {extends: emgup_paper, ssa: {epochs: 0}}, plain: {kind: adabn}}")
    experiment = load_experiment(path)
    variant, paper = experiment.methods["ssp_only"], load_method("emgup_paper")
    assert isinstance(variant, EmgupConfig)
    assert isinstance(paper, EmgupConfig)
    assert variant == paper.model_copy(update={"ssa": paper.ssa.model_copy(update={"epochs": 0})})
    assert experiment.methods["plain"] == AdaBnConfig()
    assert "extends" not in dump_yaml(experiment)
    (tmp_path / "experiment.yaml").write_text(dump_yaml(experiment))
    assert load_experiment(tmp_path / "experiment.yaml") == experiment


def test_a_variant_can_extend_a_file_and_be_overridden_like_any_method(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("{kind: emgup, ssa: {epochs: 3, temperature: 0.5}}\n")
    path = written(tmp_path, f"{{a: {{extends: {own}, ssa: {{epochs: 4}}}}}}")
    method = load_experiment(path, ["methods.a.ssa.future_windows=5"]).methods["a"]
    assert isinstance(method, EmgupConfig)
    assert (method.ssa.epochs, method.ssa.temperature, method.ssa.future_windows) == (4, 0.5, 5)


def test_a_variant_can_be_given_on_the_command_line() -> None:
    method = load_experiment("default", ["methods={a: {extends: emgup_paper, gradients: false}}"]).methods["a"]
    assert method == load_method("emgup_nograd")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{extends: emgup_papr}", r"methods\.a\.extends: unknown method 'emgup_papr'; shipped are: .*emgup_paper"),
        ("{extends: none.yaml}", r"methods\.a\.extends: no config file at none\.yaml"),
        ("{extends: [emgup_paper]}", r"methods\.a\.extends must be the name of a method"),
        ("{extends: emgup_paper, ssa: {lr: 1}}", r"unknown key 'methods\.a\.emgup\.ssa\.lr'"),
        ("{extends: adabn, ssa: {epochs: 1}}", r"unknown key 'methods\.a\.adabn\.ssa'"),
    ],
)
def test_a_wrong_variant_is_one_line(entry: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_experiment(written(tmp_path, f"{{a: {entry}}}"))
    assert "\n" not in str(error.value)


ABLATIONS = ("table2", "table3", "table4", "table5")


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_uses_the_source_models_of_myo_and_no_two_rows_are_the_same(name: str) -> None:
    table, myo = load_experiment(name), load_experiment("myo")
    for part in ("store", "users", "windows", "preprocessing", "backbone", "pretrain", "folds"):
        assert getattr(table, part) == getattr(myo, part)
    assert table.protocols == ("transductive",)
    assert table.seeds == (0, 1, 2)
    assert len({digest(config) for config in table.methods.values()}) == len(table.methods)
    assert table.methods["source_only"] == load_method("source_only")
    assert table.methods["adabn"] == load_method("adabn")


def test_rows_that_two_ablations_share_have_one_name_and_one_config() -> None:
    """Then the cells are shared too when the tables are written to the same run folder."""
    tables = [load_experiment(name).methods for name in ABLATIONS]
    for first in tables:
        for second in tables:
            assert all(first[name] == second[name] for name in first.keys() & second.keys())


def row(table: str, name: str) -> EmgupConfig:
    method = load_experiment(table).methods[name]
    assert isinstance(method, EmgupConfig)
    return method


@pytest.mark.parametrize("setting", ["published", "working"])
def test_the_rows_of_the_ablations_vary_what_the_paper_varies(setting: str) -> None:
    full = row("table2", f"{setting}_ssa_ssp")
    assert full == load_method({"published": "emgup_paper"}.get(setting, "emgup_working"))
    ssa, ssp = row("table2", f"{setting}_ssa"), row("table2", f"{setting}_ssp")
    assert (ssa.ssa, ssa.ssp.epochs) == (full.ssa, 0)
    assert (ssp.ssp, ssp.ssa.epochs) == (full.ssp, 0)
    unfiltered = row("table3", f"{setting}_no_filter").ssp
    assert isinstance(unfiltered, SspConfig)
    assert (unfiltered.confidence, unfiltered.confident_share) == (0, 0)
    for T in (8, 12, 17, 24):
        at = row("table4", f"{setting}_t{T:02d}")
        assert (at.ssa.sequence_length, at.ssa.future_windows, at.ssp.epochs) == (T + 3, 3, 0)
    assert row("table5", f"{setting}_ssa").ssa.second_view == "reversed"
    masked = row("table5", f"{setting}_masking").ssa
    assert (masked.second_view, masked.masked_share) == ("masked", 0.15)
    assert row("table5", f"{setting}_no_inversion").ssa.second_view == "none"


def test_the_control_of_table_5_makes_as_many_passes_as_two_views() -> None:
    control, one, two = (
        row("table5", f"published_{name}").ssa for name in ("10_epochs_no_inversion", "no_inversion", "ssa")
    )
    assert control == one.model_copy(update={"epochs": 2 * two.epochs})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.epoch=3", r"unknown key 'pretrain.epoch'"),
        ("methods=[emgup_papr]", r"unknown method 'emgup_papr'"),
        ("methods.emgup_paper.ssa.lr=1", r"ssa\.lr"),
        ("protocols=[oracle]", "protocols"),
        ("streaming.memory_s=10", "memory_s must be at least block_s"),
        ("streaming.block_s=0", r"streaming\.block_s"),
        ("seeds=[1,1]", "different"),
        ("scenarios=[rest60,rest60]", "a scenario is listed twice"),
        ("scenarios=[]", "scenarios"),
        ("scenarios=[busy]", "scenarios"),
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


@pytest.mark.parametrize("backbone", ["vemg2pose", "neuropose", "cnn"])
def test_experiments_of_the_backbones_differ_in_the_network_and_its_windows_only(backbone: str) -> None:
    experiment = load_experiment(f"backbones_{backbone}")
    assert experiment.backbone.kind == backbone
    assert experiment.backbone.check(experiment.windows.length, 8, 200) is None
    rows = ["source_only", "emgup_nograd", "emgup_bnfrozen", "emgup_paper", "emgup"]
    assert [m for m in experiment.methods if m != "adabn"] == rows
    assert ("adabn" in experiment.methods) == (experiment.backbone.norm == "bn")
    for name, config in experiment.methods.items():
        assert config == load_method(name)
    myo = load_experiment("myo")
    assert experiment.folds == myo.folds
    assert experiment.store == myo.store


def test_a_backbone_without_a_kind_is_cnn_and_its_keys_are_checked() -> None:
    assert load_experiment("default", ["backbone={width: 8}"]).backbone == CnnConfig(width=8)
    with pytest.raises(ConfigError, match="unknown key"):
        load_experiment("default", ["backbone={kind: neuropose, width: 8}"])
    with pytest.raises(ConfigError, match="resnet"):
        load_experiment("default", ["backbone={kind: resnet}"])


def test_adabn_is_refused_where_there_is_no_batchnorm() -> None:
    with pytest.raises(ConfigError, match="'adabn' re-estimates BatchNorm, which this backbone has none of"):
        load_experiment("backbones_cnn", ["backbone.norm=ln"])
    assert load_experiment("backbones_cnn", ["backbone.norm=ln", "methods=[tent, shot_half]"]).backbone.norm == "ln"


def test_clients_on_cuda_need_a_share_of_the_gpu() -> None:
    with pytest.raises(ConfigError, match="needs gpus_per_client above 0"):
        load_experiment("default", ["federation.device=cuda"])
    shared = load_experiment("default", ["federation.device=cuda:1", "federation.gpus_per_client=0.25"])
    assert shared.federation.device == "cuda:1"
    assert load_experiment("default", ["federation.device=auto"]).federation.gpus_per_client == 0
