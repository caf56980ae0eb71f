"""A server whose operator poisons releases: a deployed client refuses each before it opens a recording."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emgup_client.egress.audit import read_audit
from emgup_model.backbones import CnnConfig, build_backbone
from emgup_model.config import canonical_json
from emgup_model.keys import read_signing_key
from emgup_model.methods import load_method
from emgup_model.release import ReleaseFiles
from emgup_server.deployment.control import control
from emgup_server.deployment.folder import ServerFolder
from emgup_server.deployment.job import Job, RunFiles
from emgup_server.deployment.run import submit_and_follow
from tests.deployment.stage import Stage, stage, toy_user
from tests.toy import GESTURES, make_release

pytestmark = [pytest.mark.slow, pytest.mark.flower]

Poison = Callable[[Ed25519PrivateKey], ReleaseFiles]


def flipped_bit(key: Ed25519PrivateKey) -> ReleaseFiles:
    good = make_release(key)
    return replace(good, weights=good.weights[:-1] + bytes([good.weights[-1] ^ 1]))


def nan_weight(key: Ed25519PrivateKey) -> ReleaseFiles:
    """Signed by the trusted key itself."""
    model = build_backbone(CnnConfig(width=8, embedding_dim=8), 4, len(GESTURES))
    with torch.no_grad():
        next(model.parameters())[0].fill_(torch.nan)
    return make_release(key, model)


def extra_key(key: Ed25519PrivateKey) -> ReleaseFiles:
    """Signed by the trusted key itself."""
    good = make_release(key)
    manifest = canonical_json({**json.loads(good.manifest), "upload": "everything"})
    return ReleaseFiles(manifest, key.sign(manifest), good.weights)


def stranger(key: Ed25519PrivateKey) -> ReleaseFiles:
    return make_release(Ed25519PrivateKey.generate())


POISONS = {p.__name__: p for p in (flipped_bit, nan_weight, extra_key, stranger)}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A client whose recordings are gone: if it looked at them, its answer would be another one."""
    with stage(tmp_path_factory.mktemp("poison")) as made:
        user = made.add_user("anna", toy_user(0))
        user.start()
        assert user.running is not None
        user.running.wait_until_up()
        user.recordings.unlink()
        yield made


def ask(made: Stage, name: str, files: ReleaseFiles) -> str:
    """What the client answers to a run that brings these files; the operator's checks are passed by."""
    folder = ServerFolder(made.server_folder)
    where = made.folder / "poisoned" / name
    files.write(where)
    job = Job(release=str(where), release_id=files.id, methods={"adabn": load_method("adabn")}, wait_s=30)
    run = RunFiles(folder.runs / name)
    run.save(job)
    with control(folder) as connection:
        outcome = submit_and_follow(connection, run, job, lambda _: None)
    assert not outcome.good
    (answer,) = outcome.answers
    assert answer.report is None
    return answer.status


@pytest.mark.parametrize("name", POISONS)
def test_a_poisoned_release_is_refused_before_any_recording_is_opened(one: Stage, name: str) -> None:
    key = read_signing_key(one.server_folder / "release_key.pem")
    user = one.users[0]
    before = len(read_audit(user.home))
    assert ask(one, name, POISONS[name](key)) == "no release: release_refused"
    said = [line["reason"] for line in read_audit(user.home)[before:] if line["kind"] == "push-object"]
    assert said
    assert set(said) == {"status needs_release", "status release_refused"}
    assert user.uses("report") == 0
    assert not user.cells
    kept = list((user.home / "releases").rglob("*")) if (user.home / "releases").exists() else []
    assert not [p for p in kept if p.is_file()]


def test_a_good_release_would_have_been_looked_into(one: Stage) -> None:
    """The control: the same client, a release that it accepts, and now the recordings are missed."""
    key = read_signing_key(one.server_folder / "release_key.pem")
    assert ask(one, "good", make_release(key)) == "data_error"
    assert one.users[0].uses("report") == 0
