"""The full method: its settings, and from a recording file to an adapted model under every protocol and scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emgup_model.backbones import Backbone
from emgup_model.config import canonical_json, configs_dir, dump_yaml, load_yaml, parse
from emgup_model.data.store import write_user
from emgup_model.errors import ConfigError
from emgup_model.evaluation.protocols import Protocol
from emgup_model.evaluation.scenarios import SCENARIOS, Scenario
from emgup_model.evaluation.streaming import StreamingConfig
from emgup_model.keys import public_key
from emgup_model.methods import METHODS, EmgupConfig, Target, adapt, load_method, parse_method
from emgup_model.methods import emgup as module
from emgup_model.methods.base import predict_logits
from emgup_model.methods.refined import RefinedSspConfig
from emgup_model.methods.ssp import SspConfig
from emgup_model.personalize import personalize
from emgup_model.release import Release, open_release
from emgup_model.task import Task, load_user
from tests.model.methods.toys import L, differing, short_emgup, toy_statistics, toy_target, toy_user, weights
from tests.toy import make_release, toy_info, toy_recordings

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
SHIPPED = sorted(p.stem for p in (configs_dir() / "methods").glob("*.yaml"))


@pytest.fixture
def release(trained: Backbone) -> Release:
    return open_release(make_release(KEY, trained, toy_statistics()), (public_key(KEY),))


def user_file(folder: Path, seconds: float = 3.0, **info: object) -> Path:
    path = folder / "u.h5"
    write_user(path, toy_info("u", **info), toy_recordings(7, seconds=seconds))
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_method_loads_and_reads_back_as_itself(name: str, tmp_path: Path) -> None:
    method = load_method(name)
    assert method.kind in METHODS
    (tmp_path / "m.yaml").write_text(dump_yaml(method))
    assert load_method(tmp_path / "m.yaml") == method


def test_the_shipped_default_is_safe_turns_armbands_back_and_keeps_batch_norm() -> None:
    method = load_method("emgup")
    assert isinstance(method, EmgupConfig)
    assert method.safety is not None
    assert method.rotation is not None
    assert method.batch_norm == "frozen"
    assert isinstance(method.ssp, RefinedSspConfig)
    assert method.ssa.epochs > 0 < method.ssp.epochs


def test_the_published_method_has_neither_rotation_nor_safety() -> None:
    for name in ("emgup_paper", "emgup_nograd", "emgup_bnfrozen"):
        method = load_method(name)
        assert isinstance(method, EmgupConfig)
        assert (method.rotation, method.safety) == (None, None)
        assert isinstance(method.ssp, SspConfig)


@pytest.mark.parametrize(
    "keys",
    [
        "rotation.angle",
        "safety.share",
        "replay.epoch",
        "replay.augmentation.shift",
        "ssa.lr",
        "ssp.smoothing_windows",
        "ssp.labels.smoothing",
        "ssp.objective.label",
        "ssp.augmentation.shift",
        "alignment",
    ],
)
def test_unknown_keys_are_refused_however_deep(keys: str) -> None:
    data = load_yaml(configs_dir() / "methods" / "emgup.yaml")
    node: dict[str, Any] = data
    *parents, last = keys.split(".")
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = 1
    with pytest.raises(ConfigError, match=f"unknown key .*{last}") as error:
        parse_method(data, "x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        {"rotation": {"margin": 1.5}},
        {"safety": {"seen_probability": -0.1}},
        {"safety": {"kept_share": 1.1}},
        {"replay": {"weight": 0}},
        {"replay": {}},
        {"batch_norm": "frozen", "replay": {}},
        {"ssp": {"kind": "refined"}, "replay": {}},
        {"ssp": {"kind": "refined", "labels": {"temperature": 0}}},
        {"ssp": {"kind": "refined", "labels": {"prior": "known"}}},
        {"ssp": {"kind": "refined", "objective": {"confidence": 0.5}}},
        {"ssp": {"kind": "refined", "ema": 1.0}},
        {"ssp": {"kind": "refined", "confidence": 0.8}},
        {"ssp": {"kind": "magic"}},
    ],
)
def test_settings_out_of_range_are_one_line(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        parse_method({"kind": "emgup"} | data, "x")
    assert "\n" not in str(error.value)


def test_the_second_stage_is_chosen_by_kind_and_published_by_default() -> None:
    assert isinstance(parse(EmgupConfig, {"ssp": {"epochs": 3}}, "x").ssp, SspConfig)
    assert isinstance(parse(EmgupConfig, {"ssp": {"kind": "refined"}}, "x").ssp, RefinedSspConfig)


def test_a_turned_armband_with_a_loud_channel_is_repaired(trained: Backbone) -> None:
    windows, gestures = toy_user(turned=1, gains=(1.5, 1, 1, 1))
    before = weights(trained)
    result = adapt(trained, Target(windows, L, True, toy_statistics()), short_emgup(), 0)
    source, adapted = (
        float((predict_logits(m, windows).argmax(1) == gestures).float().mean()) for m in (trained, result.model)
    )
    assert source < 0.5 < 0.95 < adapted
    assert differing(before, weights(trained)) == set()
    assert not result.model.training
    assert all(p.requires_grad for p in result.model.parameters())
    assert result.log["decision"] == "personalized"
    assert result.log["start"]["rotation"] == 3
    assert set(result.log) == {"decision", "start", "ssa", "replay", "ssp"}
    assert canonical_json(result.log)


def test_with_one_gesture_nothing_runs(trained: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    for stage in ("run_ssa", "run_refined_ssp", "run_ssp", "reestimate"):
        monkeypatch.setattr(module, stage, never)
    method = short_emgup(target_share=1.0, reestimate_at_end=True)
    result = adapt(trained, toy_target(without=(1, 2)), method, 0)
    assert result.log["decision"] == "source"
    assert set(result.log) == {"decision", "start"}
    assert not differing(weights(trained), weights(result.model))
    assert not result.model.training


def test_where_a_gesture_is_missing_only_the_rehearsed_epochs_run_and_half_of_the_change_is_kept(
    trained: Backbone,
) -> None:
    target, method = toy_target(without=(1,)), short_emgup()
    assert method.safety is not None
    kept = {}
    for share in (0.0, 0.5, 1.0):
        safety = method.safety.model_copy(update={"kept_share": share})
        result = adapt(trained, target, method.model_copy(update={"safety": safety}), 0)
        assert set(result.log) == {"decision", "start", "ssa", "replay"}
        assert result.log["decision"] == "guarded"
        kept[share] = weights(result.model)
    assert not differing(kept[0.0], weights(trained))
    for name in differing(kept[1.0], kept[0.0]):
        assert torch.allclose(kept[0.5][name], (kept[0.0][name] + kept[1.0][name]) / 2, atol=1e-6)


@pytest.mark.parametrize("published", [False, True])
def test_a_guarded_person_keeps_the_stated_share_of_every_change_of_the_model(
    trained: Backbone, published: bool
) -> None:
    """BatchNorm statistics too, wherever they are moved: before, in, or after the stages."""
    brief: dict[str, Any] = {"batch_norm": "batch", "replay": None, "target_share": 0.5, "reestimate_at_end": True}
    stage = {"ssp": SspConfig(epochs=2, learning_rate=1e-3)} if published else {}
    method, target = short_emgup(**brief, **stage), toy_target(without=(1,))
    assert method.safety is not None
    kept = {}
    for share in (0.0, 0.25, 1.0):
        safety = method.safety.model_copy(update={"kept_share": share, "recovered_share": 1.0})
        result = adapt(trained, target, method.model_copy(update={"safety": safety}), 0)
        assert result.log["decision"] == "guarded"
        kept[share] = {k: v for k, v in weights(result.model).items() if v.is_floating_point()}
    source = {k: v for k, v in weights(trained).items() if v.is_floating_point()}
    assert not differing(kept[0.0], source)
    moved = differing(kept[1.0], source)
    assert any("running_var" in name for name in moved)
    for name in moved:
        assert torch.allclose(kept[0.25][name], 0.75 * source[name] + 0.25 * kept[1.0][name], atol=1e-5)


def test_rehearsing_keeps_a_gesture_that_the_users_data_lacks(trained: Backbone) -> None:
    windows, gestures = toy_user()
    method = short_emgup(safety=None)
    assert method.replay is not None
    ssp = {"epochs": 40, "learning_rate": 1e-2}
    method = method.model_copy(
        update={"replay": method.replay.model_copy(update={"epochs": 40}), "ssp": method.ssp.model_copy(update=ssp)}
    )
    recall = {}
    for name, changes in (("rehearsed", {"ssp": {"epochs": 0}}), ("forgotten", {"replay": None})):
        update = {k: method.ssp.model_copy(update=v) if isinstance(v, dict) else v for k, v in changes.items()}
        model = adapt(trained, toy_target(without=(1,)), method.model_copy(update=update), 0).model
        hit = predict_logits(model, windows).argmax(1) == gestures
        recall[name] = float(hit[gestures == 1].float().mean())
    assert recall["rehearsed"] > 0.9 > recall["forgotten"]


def test_replay_without_statistics_in_the_release_is_one_line(trained: Backbone, tmp_path: Path) -> None:
    bare = open_release(make_release(KEY, trained), (public_key(KEY),))
    with pytest.raises(ConfigError, match="release with signal statistics") as error:
        personalize(user_file(tmp_path), bare, Task(short_emgup(), "transductive"))
    assert "\n" not in str(error.value)


def test_without_safety_the_start_changes_nothing_of_the_published_method(trained: Backbone) -> None:
    """The start draws nothing where it has nothing to do: emgup_paper is what it was before there was one."""
    target = Target(toy_user()[0], L, True)
    paper = load_method("emgup_paper")
    assert isinstance(paper, EmgupConfig)
    off_ring = adapt(trained, Target(target.windows, L, False), paper, 0)
    on_ring = adapt(trained, target, paper, 0)
    assert differing(weights(on_ring.model), weights(off_ring.model)) == set()
    assert on_ring.log["start"] == {"rotation": 0}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("protocol", ["transductive", "inductive", "streaming"])
def test_every_protocol_and_scenario_gives_a_finite_model_of_the_same_shapes(
    tmp_path: Path, release: Release, scenario: Scenario, protocol: Protocol
) -> None:
    streaming = StreamingConfig(block_s=24.0, memory_s=36.0) if protocol == "streaming" else None
    task = Task(short_emgup(), protocol, scenario, streaming=streaming)
    before = weights(release.model)
    result = personalize(user_file(tmp_path, seconds=12.0), release, task)
    after = weights(result.adaptation.model)
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()}
    assert all(bool(torch.isfinite(v).all()) for v in after.values())
    assert differing(before, weights(release.model)) == set()
    log = result.adaptation.log["last"] if streaming else result.adaptation.log
    assert log["decision"] in ("personalized", "guarded", "source")
    if scenario == "subset" and not streaming:
        assert log["decision"] == "guarded"  # two of three gestures
    assert result.evaluation is not None
    assert result.evaluation.accuracy > 0.9


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("protocol", ["transductive", "streaming"])
def test_methods_are_told_whether_the_electrodes_are_a_ring(
    tmp_path: Path, release: Release, monkeypatch: pytest.MonkeyPatch, protocol: Protocol, ring: bool
) -> None:
    told: list[bool] = []
    real = module.begin

    def watched(source: Backbone, target: Target, *rest: Any) -> Any:
        told.append(target.ring)
        return real(source, target, *rest)

    monkeypatch.setattr(module, "begin", watched)
    streaming = StreamingConfig(block_s=9.0, memory_s=9.0) if protocol == "streaming" else None
    task = Task(short_emgup(), protocol, streaming=streaming)
    path = user_file(tmp_path, ring=ring)
    assert load_user(path, release.manifest, task).ring is ring
    personalize(path, release, task)
    assert told
    assert set(told) == {ring}
