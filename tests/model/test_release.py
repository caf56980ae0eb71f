from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from emgup_model import release as release_module
from emgup_model.backbones import CnnConfig, build_backbone
from emgup_model.config import canonical_json
from emgup_model.errors import ReleaseError
from emgup_model.keys import create_signing_key, public_key, read_signing_key, read_trusted, write_trusted
from emgup_model.release import ReleaseFiles, load_release, open_release, sign_release, state_tensors
from emgup_model.signal_statistics import SignalStatistics
from tests.toy import make_release

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = (public_key(KEY),)
RIGHT = state_tensors(build_backbone(CnnConfig(width=8, embedding_dim=8), 4, 3))


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
    header = json.dumps({"head.bias": {"dtype": "F8_E8M0", "shape": [3], "data_offsets": [0, 3]}}).encode()
    unknown = len(header).to_bytes(8, "little") + header + bytes(3)
    for weights in (files.weights[:-5], files.weights + b"\0" * 8, b"", b"\x80\x04pickle", unknown):
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
    for broken, message in (
        (replace(statistics, power=torch.ones(3, 12)), r"power' is float32 \[3, 12\].* must be float32 \[3, 11\]"),
        (replace(statistics, power=-torch.ones(3, 11)), "no moments: a negative power"),
        (replace(statistics, mean=torch.zeros(3, 4).double()), r"mean' is float64 .* must be float32 \[3, 4\]"),
    ):
        with pytest.raises(ReleaseError, match=message):
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


NAMES = sorted(RIGHT)
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32),
)


def signed_with(tensors: dict[str, torch.Tensor]) -> ReleaseFiles:
    """A release of these tensors, listed as they are: what a signer with other code could make."""
    plain = make_release(KEY)
    specs = {
        k: {
            "shape": list(v.shape),
            "dtype": str(v.dtype).removeprefix("torch."),
            "sha256": hashlib.sha256(bytes(v.flatten().view(torch.uint8).tolist())).hexdigest(),
        }
        for k, v in tensors.items()
    }
    return resigned(plain, save(tensors), tensors=specs)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from(DTYPES))
def test_tensors_of_another_dtype_are_refused_in_one_line(name: str, dtype: torch.dtype) -> None:
    assume(dtype != RIGHT[name].dtype)
    files = signed_with(RIGHT | {name: RIGHT[name].to(dtype)})
    with pytest.raises(ReleaseError) as error:
        open_release(files, TRUSTED)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_number_that_float32_cannot_hold_is_refused_before_it_becomes_infinite() -> None:
    for value in (torch.full((3,), 1e300, dtype=torch.float64), torch.full((3,), complex(0, float("nan")))):
        with pytest.raises(ReleaseError, match=r"'head\.bias' is (float64|complex64) \[3\].* must be float32 \[3\]"):
            open_release(signed_with(RIGHT | {"head.bias": value}), TRUSTED)
    assert open_release(signed_with(RIGHT), TRUSTED).manifest.unit == "mV"


def test_tensors_that_the_backbone_does_not_have_are_named_even_when_listed() -> None:
    fewer = {k: v for k, v in RIGHT.items() if k != "head.bias"}
    some = RIGHT | {"source_statistics.mean": torch.zeros(3, 4)}
    for tensors, odd in ((fewer, "head.bias"), (RIGHT | {"extra": torch.zeros(1)}, "extra"), (some, "correlation")):
        with pytest.raises(ReleaseError, match=odd) as error:
            open_release(signed_with(tensors), TRUSTED)
        assert "\n" not in str(error.value)


def test_no_memory_is_taken_for_a_backbone_before_the_weights_fit_it(
    files: ReleaseFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = release_module.build_backbone
    monkeypatch.setattr(release_module, "build_backbone", lambda *a: made.append(real(*a)) or made[-1])
    wider = CnnConfig(width=16, embedding_dim=8).model_dump(mode="json")
    with pytest.raises(ReleaseError, match="must be float32"):
        open_release(resigned(files, files.weights, backbone=wider), TRUSTED)
    assert [all(t.is_meta for t in model.state_dict().values()) for model in made] == [True]


@pytest.mark.parametrize("name", ["emgup-release-99", "emgup-release-", "", "EMGUP-RELEASE-2", None])
def test_only_known_formats_are_accepted(files: ReleaseFiles, name: str | None) -> None:
    with pytest.raises(ReleaseError, match="format") as error:
        open_release(resigned(files, files.weights, format=name), TRUSTED)
    assert "\n" not in str(error.value)


def test_a_release_says_its_unit_unless_it_is_of_before_units(files: ReleaseFiles) -> None:
    old = json.loads(files.manifest) | {"format": "emgup-release-1"}
    del old["unit"]
    data = canonical_json(old)
    assert open_release(ReleaseFiles(data, KEY.sign(data), files.weights), TRUSTED).manifest.unit is None
    for changes in ({"unit": None}, {"unit": ""}, {"format": "emgup-release-1"}, {"gestures": ["a", "a", "b"]}):
        with pytest.raises(ReleaseError, match="not usable here") as error:
            open_release(resigned(files, files.weights, **changes), TRUSTED)
        assert "\n" not in str(error.value)
