from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import save

from emgup_model.backbones import CnnConfig, build_backbone
from emgup_model.config import canonical_json
from emgup_model.errors import ReleaseError
from emgup_model.keys import create_signing_key, public_key, read_signing_key, read_trusted, write_trusted
from emgup_model.release import ReleaseFiles, load_release, open_release, sign_release, state_tensors
from emgup_model.signal_statistics import SignalStatistics
from tests.toy import make_release

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = (public_key(KEY),)


@pytest.fixture(scope="module")
def files() -> ReleaseFiles:
    return make_release(KEY)


def resigned(files: ReleaseFiles, weights: bytes, **changes: object) -> ReleaseFiles:
    """What a signer who does not check would make of altered content."""
    manifest = json.loads(files.manifest) | {"weights_sha256": hashlib.sha256(weights).hexdigest()} | changes
    data = canonical_json(manifest)
    return ReleaseFiles(data, KEY.sign(data), weights)


def test_a_release_comes_back_bit_for_bit(files: ReleaseFiles, tmp_path: Path) -> None:
    files.write(tmp_path)
    release = load_release(tmp_path, TRUSTED)
    assert release.id == hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest()
    torch.manual_seed(0)
    model = build_backbone(CnnConfig(width=8, embedding_dim=8), 4, 3)
    for name, tensor in state_tensors(model).items():
        assert torch.equal(tensor, release.model.state_dict()[name])
    assert not release.model.training


@pytest.mark.parametrize("part", ["manifest", "signature", "weights"])
@pytest.mark.parametrize("where", [0.0, 0.5, 0.999])
def test_one_flipped_bit_anywhere_is_refused(files: ReleaseFiles, part: str, where: float) -> None:
    data = bytearray(getattr(files, part))
    data[int(where * len(data))] ^= 1
    broken = ReleaseFiles(**{**files.__dict__, part: bytes(data)})
    with pytest.raises(ReleaseError) as error:
        open_release(broken, TRUSTED)
    assert "\n" not in str(error.value)


def test_another_signer_is_refused(files: ReleaseFiles) -> None:
    with pytest.raises(ReleaseError, match="not signed by a trusted key"):
        open_release(files, (bytes(32),))


def test_truncated_weights_and_trailing_bytes_are_refused_even_when_signed(files: ReleaseFiles) -> None:
    for weights in (files.weights[:-5], files.weights + b"\0" * 8, b"", b"\x80\x04pickle"):
        with pytest.raises(ReleaseError):
            open_release(resigned(files, weights), TRUSTED)


def test_nan_and_negative_variance_are_refused_even_when_signed() -> None:
    for name, value in (("head.bias", float("nan")), ("norm.running_var", -1.0)):
        torch.manual_seed(0)
        model = build_backbone(CnnConfig(width=8, embedding_dim=8), 4, 3)
        model.state_dict()[name].fill_(value)
        with pytest.raises(ReleaseError, match=name):
            open_release(make_release(KEY, model=model), TRUSTED)


def test_missing_extra_or_reshaped_tensors_are_refused(files: ReleaseFiles) -> None:
    release = open_release(files, TRUSTED)
    tensors = state_tensors(release.model)
    fewer = {k: v for k, v in tensors.items() if k != "head.bias"}
    for changed in (fewer, tensors | {"extra": torch.zeros(1)}, tensors | {"head.bias": torch.zeros(9)}):
        with pytest.raises(ReleaseError):
            open_release(resigned(files, save(changed)), TRUSTED)


def test_statistics_travel_with_the_weights_and_are_checked(files: ReleaseFiles) -> None:
    assert open_release(files, TRUSTED).statistics is None
    statistics = SignalStatistics(
        torch.zeros(3, 4), torch.eye(4).expand(3, 4, 4), torch.eye(4).expand(3, 4, 4), torch.ones(3, 11)
    )
    read = open_release(make_release(KEY, statistics=statistics), TRUSTED).statistics
    assert read is not None
    assert all(torch.equal(a, b) for a, b in zip(read.tensors().values(), statistics.tensors().values(), strict=True))
    for broken in (replace(statistics, power=torch.ones(3, 12)), replace(statistics, power=-torch.ones(3, 11))):
        with pytest.raises(ReleaseError, match="signal statistics"):
            open_release(make_release(KEY, statistics=broken), TRUSTED)


def test_unknown_manifest_keys_are_refused_even_when_signed(files: ReleaseFiles) -> None:
    with pytest.raises(ReleaseError, match="code"):
        open_release(resigned(files, files.weights, code="import os"), TRUSTED)


def test_a_missing_file_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"manifest\.json is missing"):
        load_release(tmp_path, TRUSTED)


def test_keys_are_private_kept_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "server" / "key.pem"
    first = create_signing_key(path)
    assert create_signing_key(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_key(read_signing_key(path)) == first
    write_trusted(tmp_path / "trusted", [first])
    assert read_trusted(tmp_path / "trusted") == (first,)
    for text in ("", "zz", "ab"):
        (tmp_path / "trusted").write_text(text)
        with pytest.raises(ReleaseError):
            read_trusted(tmp_path / "trusted")
    path.write_text("nonsense")
    with pytest.raises(ReleaseError, match="no readable signing key"):
        read_signing_key(path)


def test_signing_is_deterministic() -> None:
    assert make_release(KEY) == make_release(KEY)
    assert sign_release.__doc__
