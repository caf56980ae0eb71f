from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emgup_client.exporter import status_of
from emgup_model import personalize as module
from emgup_model.backbones import Backbone, CnnConfig, build_backbone
from emgup_model.data.store import Recording, write_user
from emgup_model.errors import ConfigError, DataError, NotApplicableError
from emgup_model.evaluation.protocols import Protocol
from emgup_model.evaluation.scenarios import SCENARIOS, Scenario
from emgup_model.evaluation.streaming import StreamingConfig
from emgup_model.keys import public_key
from emgup_model.methods import AdaBnConfig, Adapted, EmgupConfig, SourceOnlyConfig, Target
from emgup_model.methods.ssa import SsaConfig
from emgup_model.personalize import personalize
from emgup_model.release import Release, open_release
from emgup_model.task import Task, load_user
from emgup_model.wire import Status
from tests.toy import make_release, toy_info, toy_recordings

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def release() -> Release:
    return open_release(make_release(KEY), (public_key(KEY),))


def user_file(folder: Path, recordings: list[Recording] | None = None, **info: object) -> Path:
    path = folder / "u.h5"
    write_user(path, toy_info("u", **info), toy_recordings(1) if recordings is None else recordings)
    return path


def test_source_only_scores_are_equal_before_and_after(tmp_path: Path, release: Release) -> None:
    scores = personalize(user_file(tmp_path), release, Task(SourceOnlyConfig(), "transductive")).evaluation
    assert scores is not None
    assert scores.accuracy == scores.source_accuracy
    assert scores.confusion_before.sum() == scores.n_windows == 6 * 29


def test_inductive_tests_on_other_recordings_than_it_adapts_on(tmp_path: Path, release: Release) -> None:
    windows = load_user(user_file(tmp_path), release.manifest, Task(SourceOnlyConfig(), "inductive"))
    adapt_on, test_on = windows.adapt, windows.test
    assert {adapt_on.names[i] for i in adapt_on.recording.tolist()} == {"r0_g0", "r0_g1", "r0_g2"}
    assert {test_on.names[i] for i in test_on.recording.tolist()} == {"r1_g0", "r1_g1", "r1_g2"}


def test_labels_are_not_needed(tmp_path: Path, release: Release) -> None:
    bare = [replace(r, label=None) for r in toy_recordings(1)]
    result = personalize(user_file(tmp_path, bare), release, Task(AdaBnConfig(), "transductive"))
    assert result.evaluation is None
    assert 0 <= result.predictions_changed <= 1


def test_labels_cannot_change_the_adapted_weights(tmp_path: Path, release: Release) -> None:
    turned = [replace(r, label=max(int(r.label), 1)) for r in toy_recordings(1)]  # type: ignore[arg-type]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = personalize(user_file(tmp_path / "a"), release, Task(EmgupConfig(), "transductive"))
    two = personalize(user_file(tmp_path / "b", turned), release, Task(EmgupConfig(), "transductive"))
    weights = [r.adaptation.model.state_dict().values() for r in (one, two)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert one.evaluation is not None
    assert two.evaluation is not None
    assert one.evaluation.confusion_after.tolist() != two.evaluation.confusion_after.tolist()


def test_later_sessions_do_not_apply_to_one_session(tmp_path: Path, release: Release) -> None:
    with pytest.raises(NotApplicableError):
        personalize(user_file(tmp_path), release, Task(SourceOnlyConfig(), "later_sessions"))


def test_wrong_rate_short_recordings_and_one_gesture_are_one_line_each(tmp_path: Path, release: Release) -> None:
    cases: list[tuple[Path, str]] = []
    for name, recordings, info, message in (
        ("rate", None, {"sampling_rate_hz": 200.0}, "200 Hz, the release expects 100 Hz"),
        ("short", toy_recordings(1, seconds=0.7), {}, "one sequence"),
        ("tiny", toy_recordings(1, seconds=0.1), {}, "one window"),
    ):
        (tmp_path / name).mkdir()
        cases.append((user_file(tmp_path / name, recordings, **info), message))
    for path, message in cases:
        with pytest.raises(DataError, match=message) as error:
            personalize(path, release, Task(SourceOnlyConfig(), "transductive"))
        assert "\n" not in str(error.value)


def unscorable(name: str) -> list[Recording]:
    """Recordings whose labels cannot be scored."""
    recordings = toy_recordings(1)
    if name == "one gesture":
        return [r for r in recordings if r.label == 0]
    return [replace(r, label=np.tile([0, 1], len(r.emg) // 2)) for r in recordings]  # every window ties


@pytest.mark.parametrize("name", ["one gesture", "all tie"])
def test_labels_that_cannot_be_scored_leave_the_adaptation_as_it_is(
    tmp_path: Path, release: Release, name: str
) -> None:
    done = personalize(user_file(tmp_path, unscorable(name)), release, Task(AdaBnConfig(), "transductive"))
    assert done.evaluation is None
    assert done.unscored is not None
    assert "fewer than two gestures" in done.unscored
    assert "\n" not in done.unscored
    bare = [replace(r, label=None) for r in unscorable(name)]
    (tmp_path / "bare").mkdir()
    same = personalize(user_file(tmp_path / "bare", bare), release, Task(AdaBnConfig(), "transductive"))
    assert same.unscored is None
    weights = [r.adaptation.model.state_dict().values() for r in (done, same)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_damaged_labels_leave_the_adaptation_as_it_is(
    tmp_path: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_: Path) -> None:
        raise DataError("the labels are damaged")

    monkeypatch.setattr(module, "read_labels", damaged)
    done = personalize(user_file(tmp_path), release, Task(AdaBnConfig(), "transductive"))
    assert (done.evaluation, done.unscored) == (None, "the labels are damaged")


def test_a_recording_without_a_label_is_adapted_on_and_not_scored(tmp_path: Path, release: Release) -> None:
    some = [r if r.name != "r0_g1" else replace(r, label=None) for r in toy_recordings(1)]
    scores = personalize(user_file(tmp_path, some), release, Task(SourceOnlyConfig(), "transductive")).evaluation
    assert scores is not None
    assert scores.n_windows == 5 * 29
    assert scores.confusion_after.sum(axis=1).tolist() == [58, 29, 58]
    assert scores.adapted_on == (58, 29, 58)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_was_drawn_is_recorded(tmp_path: Path, release: Release, scenario: Scenario) -> None:
    path = long_file(tmp_path)
    task = Task(SourceOnlyConfig(), "transductive", scenario)
    scores = personalize(path, release, task).evaluation
    assert scores is not None
    adapt_on = load_user(path, release.manifest, task).adapt
    counts = [0, 0, 0]
    for i in adapt_on.recording.tolist():
        counts[int(adapt_on.names[i][-1])] += 1
    assert list(scores.adapted_on) == counts


@pytest.mark.parametrize("protocol", ["inductive", "later_sessions", "streaming"])
@pytest.mark.parametrize("scenario", ["balanced", "subset"])
def test_a_method_that_reads_all_it_is_given_reaches_no_other_sample(
    tmp_path: Path, release: Release, monkeypatch: pytest.MonkeyPatch, protocol: Protocol, scenario: Scenario
) -> None:
    """Every sample has its own value; all that a method can reach is in its own windows' runs."""
    recordings = [replace(r, name=f"later_{r.name}", session=1) for r in toy_recordings(2, seconds=8.0)]
    recordings = [*toy_recordings(1, seconds=8.0), *recordings]
    given: list[set[float]] = []

    def greedy(model: Backbone, target: Target, *_: object) -> Adapted:
        given.append({float(v) for v in target.windows.signal[0]})
        assert not any(target.windows.names)
        return Adapted(model)

    monkeypatch.setattr(module, "adapt", greedy)
    task = stream_task(scenario) if protocol == "streaming" else Task(AdaBnConfig(), protocol, scenario)
    path = user_file(tmp_path, recordings)
    personalize(path, release, task)
    windows = load_user(path, release.manifest, task)
    allowed = {float(v) for v in windows.adapt.batch()[:, 0].flatten()}
    assert given
    assert set().union(*given) == allowed
    assert all(some <= allowed for some in given)
    others = {float(v) for v in windows.adapt.signal[0]} - allowed
    assert len(others) > 100 or (protocol, scenario) == ("streaming", "balanced")


def test_wrong_channel_count_is_refused(tmp_path: Path, release: Release) -> None:
    three = [replace(r, emg=r.emg[:, :3]) for r in toy_recordings(1)]
    with pytest.raises(DataError, match="3 channels, the release expects 4"):
        personalize(user_file(tmp_path, three, channels=3), release, Task(SourceOnlyConfig(), "transductive"))


def test_a_diverged_model_is_not_returned(tmp_path: Path, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(model: torch.nn.Module, *_: object) -> Adapted:
        import copy

        broken = copy.deepcopy(model)
        broken.state_dict()["head.bias"].fill_(float("nan"))
        return Adapted(broken)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "adapt", explode)
    with pytest.raises(DataError, match="diverged"):
        personalize(user_file(tmp_path), release, Task(SourceOnlyConfig(), "transductive"))


def test_settings_that_do_not_fit_the_release_are_a_config_error(tmp_path: Path, release: Release) -> None:
    method = EmgupConfig(ssa=SsaConfig(future_windows=8))
    with pytest.raises(ConfigError, match="future_windows"):
        personalize(user_file(tmp_path), release, Task(method, "transductive"))


def long_file(folder: Path, **info: object) -> Path:
    return user_file(folder, toy_recordings(1, seconds=12.0), **info)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("protocol", ["transductive", "inductive"])
def test_a_scenario_thins_what_adapts_and_never_what_tests(
    tmp_path: Path, release: Release, scenario: Scenario, protocol: Protocol
) -> None:
    path = long_file(tmp_path)
    before = load_user(path, release.manifest, Task(SourceOnlyConfig(), protocol))
    after = load_user(path, release.manifest, Task(SourceOnlyConfig(), protocol, scenario))
    whole, drawn = before.adapt, after.adapt
    assert torch.equal(before.test.starts, after.test.starts)
    assert set(drawn.starts.tolist()) <= set(whole.starts.tolist())
    assert (len(drawn) < len(whole)) == (scenario != "balanced")
    assert torch.equal(drawn.starts, drawn.starts.sort().values)


def test_the_seed_of_the_cell_is_the_seed_of_the_draw(tmp_path: Path, release: Release) -> None:
    path = long_file(tmp_path)
    starts = [
        load_user(path, release.manifest, Task(SourceOnlyConfig(), "transductive", "subset", seed)).adapt.starts
        for seed in (0, 0, 1, 2, 3)
    ]
    assert torch.equal(starts[0], starts[1])
    assert len({tuple(s.tolist()) for s in starts}) > 1


def test_a_scenario_that_cannot_be_drawn_is_one_line_each(tmp_path: Path, release: Release) -> None:
    bare = [replace(r, label=None) for r in toy_recordings(1)]
    little_rest = [r if r.label else replace(r, emg=r.emg[:50]) for r in toy_recordings(1)]
    for name, recordings, info, scenario, message in (
        ("bare", bare, {}, "subset", "scenario subset is drawn with them"),
        ("restless", None, {"gestures": ("wave", "fist", "open")}, "rest60", "needs a gesture named rest or neutral"),
        ("cut", little_rest, {}, "rest60", "scenario rest60 leaves user 'u' no whole sequence"),
    ):
        (tmp_path / name).mkdir()
        path = user_file(tmp_path / name, recordings, **info)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=message) as error:
            personalize(path, release, Task(SourceOnlyConfig(), "transductive", scenario))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)


def sessions_file(folder: Path) -> Path:
    """Two sessions of one user."""
    later = [replace(r, name=f"later_{r.name}", session=1) for r in toy_recordings(2)]
    return user_file(folder, [*toy_recordings(1), *later])


def test_protocols_that_adapt_on_the_same_windows_share_one_adaptation(tmp_path: Path, release: Release) -> None:
    path, method = sessions_file(tmp_path), EmgupConfig()
    first = personalize(path, release, Task(method, "transductive"))
    known = {first.key: first.adaptation}.get
    shared = personalize(path, release, Task(method, "later_sessions"), known=known)
    fresh = personalize(path, release, Task(method, "later_sessions"))
    assert shared.adaptation is first.adaptation
    assert shared.key == fresh.key == first.key
    assert shared.predictions_changed == fresh.predictions_changed
    assert shared.evaluation is not None
    assert fresh.evaluation is not None
    pairs = zip(vars(shared.evaluation).values(), vars(fresh.evaluation).values(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_the_key_of_an_adaptation_is_of_everything_that_determines_it(tmp_path: Path, release: Release) -> None:
    path = sessions_file(tmp_path)
    other_file = tmp_path / "other"
    other_file.mkdir()
    keys = []
    for where, task in (
        (path, Task(AdaBnConfig(), "transductive")),
        (path, Task(AdaBnConfig(target_share=0.5), "transductive")),
        (path, Task(AdaBnConfig(), "inductive")),
        (path, Task(AdaBnConfig(), "transductive", "subset")),
        (path, Task(AdaBnConfig(), "transductive", seed=1)),
        (user_file(other_file), Task(AdaBnConfig(), "transductive")),
    ):
        keys.append(personalize(where, release, task).key)
    keys.append(personalize(path, replace(release, id="0" * 64), Task(AdaBnConfig(), "transductive")).key)
    assert len(set(keys)) == len(keys)


STREAMING = StreamingConfig(block_s=4.0, memory_s=8.0)


def stream_task(scenario: Scenario = "balanced", config: StreamingConfig = STREAMING) -> Task:
    return Task(AdaBnConfig(), "streaming", scenario, streaming=config)


@pytest.mark.parametrize(("protocol", "config"), [("streaming", None), ("transductive", STREAMING)])
def test_streaming_settings_go_with_their_protocol(protocol: Protocol, config: StreamingConfig | None) -> None:
    with pytest.raises(ConfigError, match="protocol streaming needs"):
        Task(AdaBnConfig(), protocol, streaming=config)


def test_a_stream_scores_all_of_the_first_session_and_is_the_same_twice(tmp_path: Path, release: Release) -> None:
    path = sessions_file(tmp_path)
    one, two = (personalize(path, release, stream_task()) for _ in range(2))
    assert one.evaluation is not None
    assert two.evaluation is not None
    assert one.evaluation.n_windows == 6 * 29
    assert np.array_equal(one.evaluation.confusion_after, two.evaluation.confusion_after)
    weights = [r.adaptation.model.state_dict().values() for r in (one, two)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert one.adaptation.log["adaptations"] == 5  # 174 windows in blocks of 40
    assert one.key == two.key != personalize(path, release, Task(AdaBnConfig(), "transductive")).key


def test_every_block_starts_from_the_source_model_and_sees_no_more_than_the_memory(
    tmp_path: Path, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    source = {k: v.clone() for k, v in release.model.state_dict().items()}
    real = module.adapt

    def watched(model: Backbone, target: Target, *rest: object) -> Adapted:
        assert all(torch.equal(v, source[k]) for k, v in model.state_dict().items())
        given.append((len(target.windows), int(target.windows.recording[-1])))
        return real(model, target, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "adapt", watched)
    personalize(user_file(tmp_path), release, stream_task())
    assert [n for n, _ in given] == [40, 80, 80, 80, 80]
    assert [last for _, last in given] == [1, 2, 4, 5, 5]


def test_a_block_as_long_as_the_stream_is_the_source_model(tmp_path: Path, release: Release) -> None:
    config = StreamingConfig(block_s=100, memory_s=100)
    scores = personalize(user_file(tmp_path), release, stream_task(config=config)).evaluation
    assert scores is not None
    assert np.array_equal(scores.confusion_before, scores.confusion_after)


def test_a_scenario_thins_the_stream_and_only_the_stream_is_scored(tmp_path: Path, release: Release) -> None:
    path = long_file(tmp_path)
    windows = load_user(path, release.manifest, stream_task("short"))
    assert windows.test is windows.adapt
    scores = personalize(path, release, stream_task("short")).evaluation
    assert scores is not None
    assert scores.n_windows == len(windows.adapt) == 300
    assert np.bincount(scores.confusion_before.sum(axis=1)).nonzero()[0].tolist() == [100]


def test_the_stream_is_in_the_order_of_recording_whatever_the_order_in_the_file(
    tmp_path: Path, release: Release
) -> None:
    made = toy_recordings(1)
    renamed = [replace(r, name=f"z{9 - i}", start_s=float(i)) for i, r in enumerate(made)]  # names run backwards
    path = user_file(tmp_path, [renamed[i] for i in (3, 0, 5, 1, 4, 2)])
    windows = load_user(path, release.manifest, stream_task()).adapt
    assert windows.names == tuple(r.name for r in renamed)
    assert (windows.starts.diff() > 0).all()


def test_precision_reaches_the_network_and_is_part_of_the_adaptations_key(tmp_path: Path, release: Release) -> None:
    path, task = user_file(tmp_path), Task(SourceOnlyConfig(), "transductive")
    plain = personalize(path, release, task)
    mixed = personalize(path, release, task, precision="bf16")
    assert (plain.adaptation.model.precision, mixed.adaptation.model.precision) == ("fp32", "bf16")
    assert plain.key != mixed.key
    assert personalize(path, release, task).key == plain.key


def test_adabn_on_a_network_without_batchnorm_does_not_apply(tmp_path: Path) -> None:
    config = CnnConfig(width=8, embedding_dim=8, norm="ln")
    files = make_release(KEY, build_backbone(config, 4, 3), backbone=config)
    with pytest.raises(NotApplicableError, match="no BatchNorm") as error:
        personalize(user_file(tmp_path), open_release(files, (public_key(KEY),)), Task(AdaBnConfig(), "transductive"))
    assert status_of(error.value) is Status.NOT_APPLICABLE


def test_an_absent_device_is_one_line(tmp_path: Path, release: Release) -> None:
    with pytest.raises(ConfigError, match="device cuda:99 is not there"):
        personalize(user_file(tmp_path), release, Task(SourceOnlyConfig(), "transductive"), "cuda:99")
