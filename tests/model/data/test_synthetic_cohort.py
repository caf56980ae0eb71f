"""The synthetic cohort as a data set: what is planted is there, the same config gives the same files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from scipy.signal import butter, sosfilt
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from emgup_model.config import digest, parse
from emgup_model.data.labels import read_labels
from emgup_model.data.store import Recording, Store, UserFile, write_user
from emgup_model.data.synthetic import (
    GESTURES,
    SyntheticConfig,
    cohort,
    draw_user,
    forearm,
    iter_recordings,
    synthesize,
)
from emgup_model.errors import ConfigError, DataError

SMALL: dict[str, Any] = {"users": 2, "repetitions": 1, "seconds": 0.5}
# Everything random about placement, contact and electronics switched off.
CLEAN: dict[str, Any] = {
    "placement": {"rotation_sd_deg": 0, "session_rotation_sd_deg": 0, "session_shift_sd_mm": 0, "left_handed_share": 0},
    "device": {
        "user_gain_log_sd": 0,
        "channel_gain_log_sd": 0,
        "noise_uv": 0,
        "powerline_uv": 0,
        "drift_uv": 0,
        "adc_bits": 16,
    },
}

GOLDEN = [1.975, 7.65, 12.203, 8.129, 6.963, 7.531, 8.034]


def clean(seconds: float = 1.0, **groups: Any) -> SyntheticConfig:
    merged = {k: {**CLEAN.get(k, {}), **v} for k, v in {**CLEAN, **groups}.items()}
    return SyntheticConfig(users=1, repetitions=1, seconds=seconds, **merged)


def levels(recordings: list[Recording]) -> npt.NDArray[np.float64]:
    """(recordings, channels) RMS."""
    return np.array([np.sqrt((r.emg.astype(float) ** 2).mean(axis=0)) for r in recordings])


def test_generator_still_makes_what_its_version_says() -> None:
    """Golden levels of one user: when they change, raise cohort.GENERATOR, or stores made before would be kept."""
    made = sorted(iter_recordings(SyntheticConfig(repetitions=1), 3), key=lambda r: int(np.asarray(r.label)))
    assert cohort.GENERATOR == 1
    np.testing.assert_allclose(levels(made).mean(axis=1), GOLDEN, rtol=0.01)


def test_same_config_same_files_whatever_the_number_of_users(tmp_path: Path) -> None:
    synthesize(SyntheticConfig(**SMALL), tmp_path / "a")
    synthesize(SyntheticConfig(**{**SMALL, "users": 3}), tmp_path / "b")
    synthesize(SyntheticConfig(**SMALL, seed=1), tmp_path / "c")
    a, b, c = (Store(tmp_path / x) for x in "abc")
    assert a.users == ("syn0000", "syn0001")
    assert b.users == (*a.users, "syn0002")
    hashes = [{u: s.infos[u].content_sha256 for u in a.users} for s in (a, b, c)]
    assert hashes[0] == hashes[1]
    assert not set(hashes[0].values()) & set(hashes[2].values())
    assert len(set(hashes[0].values())) == 2


def test_recordings_do_not_depend_on_what_else_is_recorded() -> None:
    def held(gesture: int, **more: Any) -> npt.NDArray[Any]:
        still = {"fatigue": {"velocity_drop": 0, "amplitude_rise": 0}, "seconds": 0.5}
        recordings = iter_recordings(SyntheticConfig(**still, **more), 4)
        return next(r.emg for r in recordings if r.label == gesture and r.repetition == 0 and r.session == 0)

    np.testing.assert_array_equal(held(2, repetitions=1, gestures=3), held(2, repetitions=2, sessions=2, users=1))


def test_names_and_order_do_not_tell_the_gesture() -> None:
    config = SyntheticConfig(repetitions=3, seconds=0.2)
    recordings = list(iter_recordings(config, 0))
    assert [r.name for r in recordings] == [f"s00_{i:04d}" for i in range(21)]
    assert [r.start_s for r in recordings] == sorted(r.start_s for r in recordings)
    order = np.array([int(np.asarray(r.label)) for r in recordings]).reshape(3, 7)
    assert (np.sort(order, axis=1) == np.arange(7)).all()
    assert len({tuple(row) for row in order}) == 3


def test_default_is_a_myo_armband(tmp_path: Path) -> None:
    synthesize(SyntheticConfig(users=1), tmp_path)
    with Store(tmp_path).open("syn0000") as user:
        info = user.info
        assert (info.sampling_rate_hz, info.channels, info.unit, info.ring) == (200, 8, "adc", True)
        assert info.gestures == GESTURES[:7]
        assert info.attributes["handedness"] == "right"
        assert len(user.recordings) == 28
        starts = [r.start_s for r in user.recordings]
        assert (np.diff(starts) >= 5).all()
        emg = [user.read(r.name) for r in user.recordings]
    assert {x.shape for x in emg} == {(1000, 8)}
    assert {x.dtype for x in emg} == {np.dtype(np.int8)}
    labels = read_labels(tmp_path / "syn0000.h5")
    assert sorted(labels.values()) == sorted([*range(7)] * 4)
    rest = np.mean([x.std() for r, x in zip(user.recordings, emg, strict=True) if labels[r.name] == 0])
    work = np.mean([x.std() for r, x in zip(user.recordings, emg, strict=True) if labels[r.name] != 0])
    assert 1 < rest < 6
    assert 8 < work < 30
    assert np.mean([(np.abs(x.astype(int)) >= 127).mean() for x in emg]) < 0.02


def test_spectrum_is_that_of_surface_emg() -> None:
    config = SyntheticConfig(sampling_rate_hz=2000, channels=16, repetitions=1, seconds=2, device={"notch": False})
    power = np.zeros(2001)
    for r in iter_recordings(config, 0):
        assert r.emg.shape == (4000, 16)
        if r.label != 0:
            power += (np.abs(np.fft.rfft(r.emg.astype(float), axis=0)) ** 2).sum(axis=1)
    hz = np.fft.rfftfreq(4000, 1 / 2000)
    inside = (hz >= 20) & (hz <= 450)
    assert power[inside].sum() > 0.85 * power[hz >= 0.5].sum()
    total = np.cumsum(power[hz >= 20])
    assert 60 < hz[hz >= 20][np.searchsorted(total, total[-1] / 2)] < 160


def test_fatigue_lowers_the_median_frequency_and_raises_the_amplitude() -> None:
    def late(**fatigue: float) -> tuple[float, float]:
        config = SyntheticConfig(
            sampling_rate_hz=1000, repetitions=4, seconds=1, pause_s=30, gestures=2, device={"adc_bits": 16},
            fatigue={"log_sd": 0, **fatigue},
        )  # fmt: skip
        x = next(r.emg for r in iter_recordings(config, 1) if r.repetition == 3 and r.label == 1).astype(float)
        power = (np.abs(np.fft.rfft(x, axis=0)[20:]) ** 2).sum(axis=1)
        return float(np.searchsorted(np.cumsum(power), power.sum() / 2)), float(x.std())

    rested, tired = late(velocity_drop=0, amplitude_rise=0), late(velocity_drop=0.3, amplitude_rise=0.5)
    assert tired[0] < 0.9 * rested[0]
    assert tired[1] > 1.2 * rested[1]


@pytest.mark.parametrize(("channels", "pitch"), [(8, 45.0), (16, 22.5)])
def test_pattern_moves_with_the_ring(channels: int, pitch: float) -> None:
    straight, turned = (
        list(
            iter_recordings(
                clean(placement={"rotated_share": share, "rotated_deg": pitch}).model_copy(
                    update={"channels": channels}
                ),
                0,
            )
        )
        for share in (0.0, 1.0)
    )
    a, b = levels(straight), levels(turned)
    errors = [float(np.abs(np.roll(a, by, axis=1) - b).max()) for by in (-1, 1)]
    assert min(errors) < 0.02 * a.max()
    assert np.abs(a - b).max() > 0.3 * a.max()


def test_left_arm_is_the_mirror_image_and_says_so(tmp_path: Path) -> None:
    right, left = (clean(placement={"left_handed_share": share, "rotated_share": 0}) for share in (0.0, 1.0))
    a, b = levels(list(iter_recordings(right, 0))), levels(list(iter_recordings(left, 0)))
    np.testing.assert_allclose(b, a[:, -np.arange(8) % 8], atol=0.01 * a.max())
    synthesize(left, tmp_path)
    assert Store(tmp_path).infos["syn0000"].attributes["handedness"] == "left"


def test_fat_makes_the_signal_weaker_and_more_alike_between_channels() -> None:
    def run(fat: float) -> npt.NDArray[np.float64]:
        config = clean(anatomy={"fat_median_mm": fat, "fat_log_sd": 0}, device={**CLEAN["device"], "crosstalk": 0})
        return levels([r for r in iter_recordings(config, 0) if r.label != 0])

    lean, thick = run(2.0), run(10.0)
    assert thick.mean() < 0.6 * lean.mean()
    assert (thick.max(axis=1) / thick.mean(axis=1)).mean() < (lean.max(axis=1) / lean.mean(axis=1)).mean()


@given(st.floats(0, 1), st.integers(1, 60))
def test_shares_are_planted_exactly(share: float, users: int) -> None:
    for offset in (0.0, 0.5):
        planted = sum(cohort._planted(share, i, offset) for i in range(users))
        assert abs(planted - share * users) <= 1


def test_default_cohort_has_a_rotated_and_a_left_handed_user() -> None:
    config = SyntheticConfig()
    users = [draw_user(config, i) for i in range(config.users)]
    assert sum(u.left for u in users) == 1
    assert sum(abs(u.rotation_deg) > 30 for u in users) == 1


def test_sessions_differ_by_as_much_as_they_are_told_to() -> None:
    def distance(rotation: float) -> float:
        place = {**CLEAN["placement"], "session_rotation_sd_deg": rotation}
        style = {"repetition_log_sd": 0, "repetition_effort_log_sd": 0, "slip": 0, "force_noise": 0}
        config = clean(placement=place, style=style).model_copy(update={"sessions": 2})
        made = sorted(iter_recordings(config, 0), key=lambda r: (r.session, int(np.asarray(r.label))))
        a, b = (np.log(levels([r for r in made if r.session == s and r.label != 0])) for s in (0, 1))
        return float(np.abs(a - b).mean())

    assert distance(40) > 2 * distance(0)


def test_moving_the_ring_along_the_arm_brings_other_muscles_under_it() -> None:
    config = clean(placement={**CLEAN["placement"], "session_shift_sd_mm": 30})
    user = draw_user(config, 0)
    near, far = (forearm.sizes_under_ring(user.forearm, mm) for mm in (-20.0, 20.0))
    names = [m.name for m in forearm.MUSCLES]
    proximal, distal = names.index("pronator teres"), names.index("abductor pollicis longus")
    assert near[proximal] > user.forearm.size[proximal] > far[proximal]
    assert near[distal] < user.forearm.size[distal] < far[distal]
    sizes = [cohort.draw_session(config, user, 0, s).size for s in (0, 1)]
    assert np.abs(np.log(sizes[0] / sizes[1])).max() > 0.1


@given(st.floats(0.05, 0.9), st.integers(2, 12), st.integers(0, 5))
@settings(max_examples=12, deadline=None)
def test_streams_rest_as_much_as_asked(share: float, gestures: int, seed: int) -> None:
    config = SyntheticConfig(
        repetitions=1, seconds=0.2, gestures=gestures, rest_share=share, seed=seed, sampling_rate_hz=100
    )
    (stream,) = iter_recordings(config, 0)
    labels = np.asarray(stream.label)
    assert labels.shape == (len(stream.emg),)
    assert np.mean(labels == 0) == pytest.approx(share, abs=1 / len(labels))
    counts = np.bincount(labels, minlength=gestures)
    assert len(counts) == gestures
    assert (counts[1:] == 20).all()


def test_stream_is_loud_where_its_labels_say_so() -> None:
    (stream,) = iter_recordings(SyntheticConfig(repetitions=1, seconds=2, rest_share=0.6), 1)
    labels = np.asarray(stream.label)
    loud = np.abs(stream.emg.astype(float)).mean(axis=1)
    assert loud[labels > 0].mean() > 2 * loud[labels == 0].mean()


@given(st.floats(1, 20), st.integers(1, 12), st.integers(0, 30))
@settings(max_examples=50)
def test_imbalance_is_planted_per_user(ratio: float, repetitions: int, user: int) -> None:
    from emgup_model.data.synthetic.schedule import repetitions_of

    config = SyntheticConfig(imbalance=ratio, repetitions=repetitions)
    counts = repetitions_of(config, draw_user(config, user).frequency_rank)
    assert counts.max() == repetitions
    assert counts.min() == max(1, round(repetitions / ratio))


def test_imbalanced_users_differ_in_what_is_rare() -> None:
    config = SyntheticConfig(imbalance=4, repetitions=4, seconds=0.2)
    labels = [[int(np.asarray(r.label)) for r in iter_recordings(config, u)] for u in range(4)]
    counts = [np.bincount(x, minlength=7) for x in labels]
    assert all(c.max() == 4 and c.min() == 1 for c in counts)
    assert len({int(c.argmin()) for c in counts}) > 1


def test_interrupted_run_goes_on_and_other_configs_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SyntheticConfig(**SMALL)
    real = cohort.iter_recordings

    def breaks(c: SyntheticConfig, index: int) -> Iterator[Recording]:
        recordings = real(c, index)
        yield next(recordings)
        if index == 1:
            raise KeyboardInterrupt
        yield from recordings

    monkeypatch.setattr(cohort, "iter_recordings", breaks)
    with pytest.raises(KeyboardInterrupt):
        synthesize(config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["syn0000.h5"]
    made: list[int] = []

    def counts(c: SyntheticConfig, index: int) -> Iterator[Recording]:
        made.append(index)
        return real(c, index)

    monkeypatch.setattr(cohort, "iter_recordings", counts)
    calls: list[tuple[int, int]] = []
    synthesize(config, tmp_path, lambda done, total: calls.append((done, total)))
    assert made == [1]
    assert calls == [(1, 2), (2, 2)]
    (tmp_path / "syn0001.h5").write_bytes(b"damaged")
    synthesize(config, tmp_path)
    assert made == [1, 1]
    synthesize(SyntheticConfig(**SMALL, seed=5), tmp_path)
    assert made == [1, 1, 0, 1]


def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    config = SyntheticConfig(**SMALL)
    info = cohort.user_info(config, 0)
    recordings = list(iter_recordings(config, 0))
    foreign = tmp_path / "syn0001.h5"
    write_user(foreign, type(info)(**{**info.__dict__, "dataset": "mine", "user": "syn0001"}), recordings)
    before = foreign.read_bytes()
    with pytest.raises(DataError, match="belongs to the dataset 'mine'"):
        synthesize(config, tmp_path)
    assert foreign.read_bytes() == before
    assert not (tmp_path / "syn0000.h5").exists()
    (tmp_path / "syn0001.h5").rename(tmp_path / "Male1.h5")
    with pytest.raises(DataError, match="no user of this cohort"):
        synthesize(config, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        synthesize(config, tmp_path / "file")


def test_defaults_are_digested_as_if_they_had_been_given() -> None:
    config = SyntheticConfig()
    assert digest(parse(SyntheticConfig, config.model_dump(mode="json"), "again")) == digest(config)


def settings_rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from settings_rows(type(field.default), f"{name}.")
        else:
            default = str(field.default).lower() if isinstance(field.default, bool) else field.default
            yield f"| `{prefix}{name}` | {'null' if default is None else default} | {field.description} |"


def test_guide_lists_every_setting() -> None:
    guide = Path(__file__).parents[3] / "docs" / "synthetic-cohort.md"
    text = guide.read_text(encoding="utf-8")
    missing = [row for row in settings_rows(SyntheticConfig) if row not in text]
    assert not missing


@pytest.mark.parametrize(
    "data",
    [
        {"users": 0},
        {"gestures": 1},
        {"gestures": 13},
        {"colour": "red"},
        {"rest_share": 1.0},
        {"placement": {"rotated_share": 1.5}},
        {"device": {"adc_bits": 2}},
        {"device": {"powerline_hz": 55}},
        {"seconds": float("nan")},
    ],
)
def test_bad_settings_are_one_clear_line(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as e:
        parse(SyntheticConfig, data, "cohort.yaml")
    assert "\n" not in str(e.value)
    assert "cohort.yaml" in str(e.value)


@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**63 - 1),
            "gestures": st.integers(2, 12),
            "repetitions": st.integers(1, 2),
            "sessions": st.integers(1, 2),
            "seconds": st.floats(0.2, 0.4),
            "sampling_rate_hz": st.floats(50, 3000),
            "channels": st.integers(1, 20),
            "imbalance": st.floats(1, 3),
            "rest_share": st.none() | st.floats(0.1, 0.7),
            "anatomy": st.fixed_dictionaries({"radius_mm": st.floats(20, 80), "fat_median_mm": st.floats(0, 30)}),
            "device": st.fixed_dictionaries({"adc_bits": st.integers(4, 24), "full_scale_uv": st.floats(1, 1e5)}),
        }
    ),
    st.integers(0, 9999),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_config_gives_valid_recordings(data: dict[str, Any], user: int) -> None:
    config = parse(SyntheticConfig, data, "test")
    assert digest(parse(SyntheticConfig, config.model_dump(mode="json"), "again")) == digest(config)
    names = set()
    half = 2 ** (config.device.adc_bits - 1)
    for r in iter_recordings(config, user):
        names.add((r.session, r.name))
        assert r.emg.shape[1] == config.channels
        assert r.emg.dtype.kind == "i"
        assert r.emg.min() >= -half
        assert r.emg.max() < half
        assert np.asarray(r.label).max() < config.gestures
        if np.ndim(np.asarray(r.label)):
            assert len(np.asarray(r.label)) == len(r.emg)
        else:
            assert len(r.emg) == round(config.seconds * config.sampling_rate_hz)
    assert len(names) >= config.sessions


Performed = list[tuple[int, int, npt.NDArray[Any]]]  # gesture, repetition, emg (T, C) at 200 Hz


def performed(config: SyntheticConfig) -> list[Performed]:
    """All users of a cohort of held gestures."""
    return [
        [(int(np.asarray(r.label)), r.repetition, r.emg) for r in iter_recordings(config, u)]
        for u in range(config.users)
    ]


def features(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(windows, 2 C) logarithms of RMS and of mean absolute slope, above 10 Hz, windows of 52 samples, hop 20."""
    sos = butter(2, 10, "highpass", fs=200, output="sos")
    windows = np.lib.stride_tricks.sliding_window_view(sosfilt(sos, x.astype(float) - x[:1], axis=0), 52, axis=0)[::20]
    rms = np.sqrt((windows**2).mean(axis=-1))
    return np.log(np.concatenate([rms, np.abs(np.diff(windows, axis=-1)).mean(axis=-1)], axis=1) + 0.5)


def accuracies(users: list[Performed], folds: int) -> dict[str, npt.NDArray[np.float64]]:
    """Per user: LDA trained on other users, the same with each user's mean removed, and trained within the user."""
    data = []
    for recordings in users:
        parts = [features(emg) for _, _, emg in recordings]
        y, rep = (np.repeat([r[i] for r in recordings], [len(p) for p in parts]) for i in (0, 1))
        data.append((np.concatenate(parts), y, rep))

    def lda() -> LinearDiscriminantAnalysis:
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-3)

    out: dict[str, list[float]] = {"cross": [], "centred": [], "within": []}
    for fold in range(folds):
        train = [d for v, d in enumerate(data) if v % folds != fold]
        labels = np.concatenate([d[1] for d in train])
        plain = lda().fit(np.concatenate([d[0] for d in train]), labels)
        centred = lda().fit(np.concatenate([d[0] - d[0].mean(axis=0) for d in train]), labels)
        for x, y, rep in data[fold::folds]:
            first = rep < (rep.max() + 1) // 2
            out["cross"].append(plain.score(x, y))
            out["centred"].append(centred.score(x - x.mean(axis=0), y))
            out["within"].append(lda().fit(x[first], y[first]).score(x[~first], y[~first]))
    return {k: 100 * np.array(v) for k, v in out.items()}


def summary(result: dict[str, npt.NDArray[np.float64]]) -> str:
    return ", ".join(f"{k} {v.mean():.1f} ± {v.std():.1f} (worst {v.min():.0f})" for k, v in result.items())


def test_training_on_others_loses_clearly_against_training_on_the_user() -> None:
    result = accuracies(performed(SyntheticConfig(users=10, seconds=2.5)), folds=5)
    assert result["within"].mean() > 90
    assert result["within"].mean() - result["cross"].mean() > 10
    assert result["cross"].mean() > 50
    assert result["cross"].min() < 50  # the user with the rotated ring


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_default_cohort_is_as_hard_as_the_myo_armband_data(seed: int) -> None:
    result = accuracies(performed(SyntheticConfig(seed=seed)), folds=5)
    print(f"\nsynthetic, seed {seed}: {summary(result)}")
    mean = {k: v.mean() for k, v in result.items()}
    assert 68 < mean["cross"] < 84
    assert 9 < result["cross"].std() < 22
    assert 3 < mean["centred"] - mean["cross"] < 15
    assert 94 < mean["within"] < 99.5


@pytest.mark.slow
def test_myo_armband_data_by_the_same_measure(real_data: Path) -> None:
    """Session 0 of the 37 users that are not copies of another."""
    folders = sorted(p for p in real_data.glob("myo_armband/*Dataset/*") if p.is_dir())
    folders = [p for p in folders if p.parts[-2:] not in {("PreTrainingDataset", f"Female{i}") for i in (7, 8, 9)}]
    users: list[Performed] = []
    for folder in folders:
        read = [np.fromfile(folder / "training0" / f"classe_{i}.dat", "<i2").reshape(-1, 8) for i in range(28)]
        users.append([(i % 7, i // 7, emg) for i, emg in enumerate(read)])
    assert len(users) == 37
    result = accuracies(users, folds=5)
    print(f"\nMyo armband: {summary(result)}")
    assert 70 < result["cross"].mean() < 82
    assert 94 < result["within"].mean() < 99.5


def test_file_is_readable_by_the_validating_reader(tmp_path: Path) -> None:
    synthesize(SyntheticConfig(**SMALL, rest_share=0.5, imbalance=2, sessions=2), tmp_path)
    for user in ("syn0000", "syn0001"):
        with UserFile(tmp_path / f"{user}.h5") as file:
            assert [r.session for r in file.recordings] == [0, 1]
        labels = read_labels(tmp_path / f"{user}.h5")
        assert all(isinstance(v, np.ndarray) for v in labels.values())
