"""A user's file in another order of gestures or another unit gives what it would give in the release's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emgup_client.live.decisions import Decider
from emgup_client.live.sources import from_recording
from emgup_model.data.store import Recording, write_user
from emgup_model.data.windows import PreprocessingConfig
from emgup_model.errors import DataError
from emgup_model.evaluation.streaming import StreamingConfig
from emgup_model.keys import public_key
from emgup_model.methods import AdaBnConfig, SourceOnlyConfig
from emgup_model.personalize import Personalization, personalize
from emgup_model.release import Release, open_release
from emgup_model.task import Task, load_user
from tests.model.methods.toys import train_toy_model
from tests.toy import GESTURES, make_release, toy_info, toy_recordings

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TURNED = ("open", "rest", "fist")
TASK = Task(SourceOnlyConfig(), "transductive")


@pytest.fixture(scope="module")
def release() -> Release:
    """In mV, of a model that knows the toy gestures."""
    return open_release(make_release(KEY, train_toy_model()), (public_key(KEY),))


def listed(gestures: Sequence[str], recordings: list[Recording] | None = None) -> list[Recording]:
    """The same recordings as labelled by a file that lists its gestures in this order."""
    found = toy_recordings(1) if recordings is None else recordings
    return [replace(r, label=gestures.index(GESTURES[int(np.asarray(r.label))])) for r in found]


def scaled(gain: float) -> list[Recording]:
    return [replace(r, emg=r.emg.astype(np.float64) * gain) for r in toy_recordings(1)]


def write(folder: Path, name: str, recordings: list[Recording] | None = None, **info: object) -> Path:
    path = folder / f"{name}.h5"
    write_user(path, toy_info("u", **info), toy_recordings(1) if recordings is None else recordings)
    return path


def numbers(done: Personalization) -> dict[str, object]:
    """All that is said of an outcome but how long it took."""
    assert done.evaluation is not None
    scores = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(done.evaluation).items()}
    return scores | {"percentiles": done.confidence_percentiles, "changed": done.predictions_changed}


def test_gestures_in_another_order_score_the_same(tmp_path: Path, release: Release) -> None:
    straight = personalize(write(tmp_path, "a"), release, TASK)
    turned = personalize(write(tmp_path, "b", listed(TURNED), gestures=TURNED), release, TASK)
    assert straight.evaluation is not None
    assert straight.evaluation.accuracy > 0.95
    assert numbers(turned) == numbers(straight)


def test_labels_of_every_sample_in_another_order_score_the_same(tmp_path: Path, release: Release) -> None:
    def each(recordings: list[Recording]) -> list[Recording]:
        return [replace(r, label=np.full(len(r.emg), r.label)) for r in recordings]

    straight = personalize(write(tmp_path, "a", each(toy_recordings(1))), release, TASK)
    turned = personalize(write(tmp_path, "b", each(listed(TURNED)), gestures=TURNED), release, TASK)
    assert numbers(turned) == numbers(straight)


@pytest.mark.parametrize("scenario", ["rest60", "subset", "skew"])
def test_scenarios_are_drawn_the_same_in_another_order(tmp_path: Path, release: Release, scenario: str) -> None:
    task = Task(AdaBnConfig(), "transductive", scenario, 3)  # type: ignore[arg-type]
    straight = load_user(write(tmp_path, "a"), release.manifest, task)
    turned = load_user(write(tmp_path, "b", listed(TURNED), gestures=TURNED), release.manifest, task)
    assert torch.equal(turned.adapt.starts, straight.adapt.starts)
    assert len(straight.adapt) < len(straight.test)


def test_a_file_with_some_of_the_gestures_is_matched_by_name(tmp_path: Path, release: Release) -> None:
    some = [r for r in toy_recordings(1) if r.label != 1]
    done = personalize(write(tmp_path, "a", listed(("open", "rest"), some), gestures=("open", "rest")), release, TASK)
    assert done.evaluation is not None
    assert done.evaluation.accuracy > 0.95
    assert done.evaluation.confusion_after.shape == (3, 3)
    assert done.evaluation.confusion_after.sum(1).tolist() == [58, 0, 58]
    task = Task(AdaBnConfig(), "transductive", "rest60")
    assert len(load_user(tmp_path / "a.h5", release.manifest, task).adapt)


@pytest.mark.parametrize("gestures", [("rest", "fist", "wave"), ("rest", "fist", "open", "wave")])
def test_gestures_that_the_release_does_not_know_are_refused(
    tmp_path: Path, release: Release, gestures: tuple[str, ...]
) -> None:
    with pytest.raises(DataError, match=r"user 'u': the gesture 'wave' is none of the release's") as error:
        personalize(write(tmp_path, "a", gestures=gestures), release, TASK)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("gestures", [(), TURNED])
def test_a_file_without_labels_need_not_name_gestures(
    tmp_path: Path, release: Release, gestures: tuple[str, ...]
) -> None:
    bare = [replace(r, label=None) for r in toy_recordings(1)]
    done = personalize(write(tmp_path, "a", bare, gestures=gestures), release, TASK)
    assert done.evaluation is None
    assert done.test_windows == 6 * 29


@pytest.mark.parametrize(("unit", "gain"), [("uV", 1e3), ("\u00b5V", 1e3), ("V", 1e-3), ("mV", 1.0)])
def test_another_unit_gives_the_same_windows_scores_and_live_decisions(
    tmp_path: Path, release: Release, unit: str, gain: float
) -> None:
    plain, path = write(tmp_path, "a"), write(tmp_path, "b", scaled(gain), unit=unit)
    one, other = (load_user(p, release.manifest, TASK) for p in (plain, path))
    torch.testing.assert_close(other.test.signal, one.test.signal)
    assert other.test.signal.square().mean() > 1
    assert scores(path, release) == scores(plain, release)
    live = [decisions(p, release) for p in (plain, path)]
    assert live[0] == live[1]
    assert len(set(live[0])) == 3


def scores(path: Path, release: Release) -> list[list[int]]:
    evaluation = personalize(path, release, TASK).evaluation
    assert evaluation is not None
    confusion: list[list[int]] = evaluation.confusion_after.tolist()
    return confusion


def decisions(path: Path, release: Release) -> list[int | None]:
    decider, found = Decider(release.model, release.manifest), []
    for chunk in from_recording(path, release.manifest):
        if chunk.begins:
            decider.restart()
        found += [d.gesture for d in decider.push(chunk.samples)]
    return found


@pytest.mark.parametrize("unit", ["adc", "counts", "MV"])
def test_a_unit_that_cannot_be_converted_is_refused_wherever_a_file_is_opened(
    tmp_path: Path, release: Release, unit: str
) -> None:
    path = write(tmp_path, "a", unit=unit)
    streaming = Task(AdaBnConfig(), "streaming", streaming=StreamingConfig(block_s=2, memory_s=4))
    for use in (
        lambda: personalize(path, release, TASK),
        lambda: personalize(path, release, streaming),
        lambda: next(from_recording(path, release.manifest)),
    ):
        with pytest.raises(DataError, match=f"user 'u': the samples are in '{unit}', the release's in 'mV'") as error:
            use()
        assert "\n" not in str(error.value)


def test_a_release_of_before_units_takes_any(tmp_path: Path) -> None:
    old = make_release(KEY, train_toy_model(), format="emgup-release-1", unit=None)
    release = open_release(old, (public_key(KEY),))
    done = personalize(write(tmp_path, "a", unit="adc"), release, TASK)
    assert done.evaluation is not None
    assert done.evaluation.accuracy > 0.95


def test_filtered_signals_are_converted_too(tmp_path: Path) -> None:
    files = make_release(KEY, train_toy_model(), preprocessing=PreprocessingConfig(highpass_hz=10.0))
    manifest = open_release(files, (public_key(KEY),)).manifest
    plain, path = write(tmp_path, "a"), write(tmp_path, "b", scaled(1e6), unit="nV")
    one, other = (load_user(p, manifest, TASK).test.signal for p in (plain, path))
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
