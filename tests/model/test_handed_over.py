"""What a method is handed: the windows that the protocol and the scenario leave to adapt on, never the test windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emgup_model import personalize as module
from emgup_model.backbones import Backbone
from emgup_model.data.store import write_user
from emgup_model.evaluation.scenarios import Scenario
from emgup_model.keys import public_key
from emgup_model.methods import Adapted, SourceOnlyConfig, Target
from emgup_model.personalize import personalize
from emgup_model.release import open_release
from emgup_model.task import Task, load_user
from tests.toy import make_release, toy_info, toy_recordings

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.mark.parametrize("scenario", ["balanced", "short"])
def test_the_method_gets_the_windows_to_adapt_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: Scenario
) -> None:
    handed: list[Target] = []
    real = module.adapt

    def watched(model: Backbone, target: Target, *rest: Any) -> Adapted:
        handed.append(target)
        return real(model, target, *rest)

    monkeypatch.setattr(module, "adapt", watched)
    write_user(tmp_path / "u.h5", toy_info("u"), toy_recordings(1, seconds=12.0))
    release = open_release(make_release(KEY), (public_key(KEY),))
    task = Task(SourceOnlyConfig(), "inductive", scenario)
    personalize(tmp_path / "u.h5", release, task)
    windows = load_user(tmp_path / "u.h5", release.manifest, task)
    (target,) = handed
    assert torch.equal(target.windows.batch(), windows.adapt.batch())
    assert not torch.equal(target.windows.batch()[: len(windows.test)], windows.test.batch()[: len(target.windows)])
    assert target.sequence_length == release.manifest.windows.sequence_length
