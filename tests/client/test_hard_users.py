"""Users who give a method nothing to learn from: through the ClientApp and a real vault, for every shipped method."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import load

from emgup_client.app import ClientSettings, Subject, make_app
from emgup_client.vault import EVALUATION, WEIGHTS
from emgup_model.config import canonical_json, configs_dir
from emgup_model.data.store import Recording, write_user
from emgup_model.errors import DataError
from emgup_model.keys import public_key, write_trusted
from emgup_model.methods import EmgupConfig, MethodConfig, load_method, parse_method
from emgup_model.wire import Reply, Status
from tests.client.clients import Client
from tests.model.methods.toys import toy_statistics
from tests.toy import make_release, toy_info, toy_recordings

KEY = Ed25519PrivateKey.generate()
METHODS = sorted(path.stem for path in (configs_dir() / "methods").glob("*.yaml"))


def client_of(
    folder: Path, recordings: list[Recording], device: str = "cpu", damage: Callable[[Path], None] = lambda _: None
) -> Client:
    """A client that holds the release of an untrained model, which is sure of nothing."""
    path = folder / "u1.h5"
    write_user(path, toy_info("u1"), recordings)
    damage(path)
    write_trusted(folder / "trusted", [public_key(KEY)])
    settings = ClientSettings(folder / "home", folder / "trusted", lambda _: Subject("u1", path), device, threads=1)
    client = Client(folder / "home", make_app(lambda _: settings), make_release(KEY, None, toy_statistics()))
    assert client.deliver() is Status.HAVE_RELEASE
    return client


def ask(client: Client, method: MethodConfig, cell: str = "a") -> Reply:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # NumPy says so when it divides by zero
        return client.personalize(method=canonical_json(method).decode(), cell=cell * 64)


def one(emg: np.ndarray) -> list[Recording]:
    return [Recording("r0", 0, 0, 0.0, emg.astype(np.float32), None)]


def noise(samples: int) -> np.ndarray:
    return 10 * np.random.default_rng(1).standard_normal((samples, 4))


def not_a_number(path: Path) -> None:
    """One sample, written past the library's checks and with a right checksum."""
    with h5py.File(path, "r+") as file:
        found: list[h5py.Dataset] = []
        file.visititems(lambda _, item: found.append(item) if getattr(item, "ndim", 0) == 2 else None)
        found[0][3, 1] = np.nan


UNUSABLE: dict[str, tuple[list[Recording], Callable[[Path], None], str]] = {
    "silent": (one(np.zeros((900, 4))), lambda _: None, "constant signal on every channel"),
    "constant": (one(np.ones((900, 4)) * [1, 5, -3, 2]), lambda _: None, "constant signal on every channel"),
    "shorter than a sequence": (one(noise(80)), lambda _: None, "no recording as long as one sequence"),
    "shorter than a window": (one(noise(19)), lambda _: None, "no recording of at least 20 samples"),
    "not a number": (one(noise(900)), not_a_number, "holds NaN or infinity"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_recording_is_one_code_for_every_method_and_no_weight_changes(tmp_path: Path, kind: str) -> None:
    recordings, damage, words = UNUSABLE[kind]
    client = client_of(tmp_path, toy_recordings(1))
    assert ask(client, load_method("adabn"), "0").status is Status.OK
    vault = client.home / "vault"
    before = {p: p.read_bytes() for p in vault.rglob("*") if p.is_file()}
    path = client.home.parent / "u1.h5"
    write_user(path, toy_info("u1"), recordings)
    damage(path)
    for method in METHODS:
        assert ask(client, load_method(method)) == Reply(status=Status.DATA_ERROR), method
    assert {p: p.read_bytes() for p in vault.rglob("*") if p.is_file() and p.name != ".lock"} == {
        p: data for p, data in before.items() if p.name != ".lock"
    }
    name = f"{DataError.__module__}.{DataError.__name__}: "
    errors = [line for line in client.log.splitlines() if line.startswith(name)]
    assert len(errors) == len(METHODS)
    assert all(words in line for line in errors)


@pytest.mark.parametrize("samples", [90, 900])
@pytest.mark.parametrize("method", METHODS)
def test_a_user_of_whom_the_model_is_never_sure_gets_finite_weights(tmp_path: Path, method: str, samples: int) -> None:
    """One sequence, or a few, and no window above the thresholds."""
    client = client_of(tmp_path, one(noise(samples)))
    assert ask(client, load_method(method)).status is Status.NOT_EVALUATED
    made = load((client.cell / WEIGHTS).read_bytes())
    assert all(bool(torch.isfinite(w).all()) for w in made.values())
    evaluation = json.loads((client.cell / EVALUATION).read_text())
    assert evaluation["confidence_percentiles"][-1] < 0.8 or method == "nrc"
    if method == "emgup":
        assert evaluation["log"]["decision"] == "source"
        assert same_weights(client, made)


def same_weights(client: Client, made: dict[str, torch.Tensor]) -> bool:
    """Whether they are the release's, bit for bit."""
    source = load(client.files.weights)
    return all(torch.equal(w, source[name]) for name, w in made.items())


def pseudo_labels_only(**changes: object) -> MethodConfig:
    """The published second stage alone, at a rate that would show."""
    ssp = {"epochs": 3, "learning_rate": 1e-2, **changes}
    return parse_method({"kind": "emgup", "ssa": {"epochs": 0}, "ssp": ssp}, "test")


@pytest.mark.parametrize(
    "threshold", [{}, {"confidence": 1.0, "fallback_confidence": 1.0}, {"fallback_confidence": None}]
)
def test_without_a_confident_sequence_the_second_stage_changes_no_bit(
    tmp_path: Path, threshold: dict[str, object]
) -> None:
    client = client_of(tmp_path, toy_recordings(1))
    assert ask(client, pseudo_labels_only(**threshold)).status is Status.OK
    assert same_weights(client, load((client.cell / WEIGHTS).read_bytes()))
    log = json.loads((client.cell / EVALUATION).read_text())["log"]["ssp"]
    assert (log["steps"], log["sequences_kept"], log["loss"]) == (0, 0, [])
    assert log["skipped"] == 3
    assert log["sequences_seen"] > 0


def test_with_a_confident_sequence_it_does(tmp_path: Path) -> None:
    client = client_of(tmp_path, toy_recordings(1))
    assert ask(client, pseudo_labels_only(confidence=0.3)).status is Status.OK
    assert not same_weights(client, load((client.cell / WEIGHTS).read_bytes()))


def test_the_default_method_leaves_a_user_alone_whose_gestures_it_never_sees(tmp_path: Path) -> None:
    config = load_method("emgup")
    assert isinstance(config, EmgupConfig)
    assert config.safety is not None
    never = config.model_copy(update={"safety": config.safety.model_copy(update={"seen_probability": 1.0})})
    client = client_of(tmp_path, toy_recordings(1))
    assert ask(client, never).status is Status.OK
    assert json.loads((client.cell / EVALUATION).read_text())["log"]["decision"] == "source"
    assert same_weights(client, load((client.cell / WEIGHTS).read_bytes()))


def test_a_dead_channel_is_no_reason_to_refuse(tmp_path: Path) -> None:
    emg = noise(900)
    emg[:, 2] = 0
    assert ask(client_of(tmp_path, one(emg)), load_method("adabn")).status is Status.NOT_EVALUATED


def test_diverged_weights_are_never_kept(tmp_path: Path) -> None:
    signs = np.random.default_rng(0).choice([-3e38, 3e38], (900, 4))
    client = client_of(tmp_path, one(signs))
    assert ask(client, load_method("adabn")).status is Status.DATA_ERROR
    assert not list((client.home / "vault").rglob(WEIGHTS))
