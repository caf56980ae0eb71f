"""Server's and client's folders: what `init` makes, and what it refuses."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from emgup_client.deployment.client_app import check_method
from emgup_client.deployment.config import ClientConfig, ClientHome, choose_device
from emgup_client.deployment.initialise import bundle_sha256, init_client
from emgup_model.config import parse
from emgup_model.data.store import write_user
from emgup_model.errors import ConfigError, DataError, EmgupError, ReleaseError
from emgup_model.keys import public_key, read_signing_key, read_trusted, write_trusted
from emgup_model.methods import load_method
from emgup_model.release import load_release
from emgup_server.deployment.certificates import new_authority, server_certificate
from emgup_server.deployment.folder import ServerConfig, ServerFolder
from emgup_server.deployment.initialise import init_server, sign
from tests.toy import make_release, toy_info, toy_recordings


@pytest.fixture
def server(tmp_path: Path) -> ServerFolder:
    folder = ServerFolder(tmp_path / "server")
    init_server(folder, ServerConfig())
    return folder


def modes(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): stat.S_IMODE(p.stat().st_mode) for p in [folder, *folder.rglob("*")]}


def test_the_servers_folder_is_private_but_for_what_clients_get(server: ServerFolder) -> None:
    found = modes(server.path)
    public = {
        "for_clients",
        "for_clients/root_certificates.pem",
        "for_clients/trusted_release_keys.txt",
        "tls/server.pem",
    }
    assert {name for name, mode in found.items() if mode & 0o077} == public
    assert server.config() == ServerConfig()
    assert read_trusted(server.trusted) == (public_key(read_signing_key(server.signing_key)),)
    assert server.superexec_secret.read_text() != server.operator_secret.read_text()


def test_a_second_init_changes_nothing(server: ServerFolder) -> None:
    before = {p: p.read_bytes() for p in server.path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="already"):
        init_server(server, ServerConfig(port=1))
    assert {p: p.read_bytes() for p in server.path.rglob("*") if p.is_file()} == before


def handshake(root: bytes, certificate: Path, key: Path, name: str) -> None:
    """TLS between two ends in memory. Raises ssl.SSLError where the client does not accept the server."""
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(certificate, key)
    outside = ssl.create_default_context(cadata=root.decode())
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = outside.wrap_bio(down, up, server_hostname=name)
    server = inside.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def test_the_certificate_is_good_for_its_names_and_its_authority_only(server: ServerFolder) -> None:
    root = server.ca.read_bytes()
    for name in ("localhost", "127.0.0.1"):
        handshake(root, server.certificate, server.key, name)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        handshake(root, server.certificate, server.key, "example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(new_authority()[0], server.certificate, server.key, "localhost")


@pytest.mark.parametrize("name", ["", "bücher.example", "a" * 300 + "é"])
def test_a_name_that_no_certificate_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    if name:
        with pytest.raises(ConfigError, match="neither a DNS name"):
            init_server(ServerFolder(tmp_path / "s"), ServerConfig(names=(name,)))
    assert not (tmp_path / "s").exists()


def test_damaged_authority_files_are_one_line() -> None:
    certificate, _ = new_authority()
    with pytest.raises(ConfigError, match="damaged"):
        server_certificate(certificate, b"no key", ["localhost"])


def test_a_release_is_signed_after_it_was_verified(server: ServerFolder, tmp_path: Path) -> None:
    maker, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    source = tmp_path / "run" / "releases" / "fold_00"
    make_release(maker).write(source)
    with pytest.raises(ReleaseError, match="give --trusted"):
        sign(server, source, None)
    write_trusted(tmp_path / "stranger", [public_key(stranger)])
    with pytest.raises(ReleaseError, match="not signed by a trusted key"):
        sign(server, source, tmp_path / "stranger")
    assert not server.releases.exists()
    (tmp_path / "run" / "client").mkdir()
    write_trusted(tmp_path / "run" / "client" / "trusted_release_keys.txt", [public_key(maker)])
    out = sign(server, source, None)
    assert load_release(out, read_trusted(server.trusted)).id == out.name
    assert stat.S_IMODE(server.releases.stat().st_mode) == 0o700


def client_of(server: ServerFolder, tmp_path: Path, **changes: object) -> ClientHome:
    write_user(tmp_path / "u.h5", toy_info("u"), toy_recordings(0))
    given = {"recordings": tmp_path / "u.h5", "root_certificates": server.ca, "trusted": server.trusted}
    home = ClientHome(tmp_path / "home")
    init_client(home, **(given | {"policy": "default", "superlink": "127.0.0.1:8443"} | changes))  # type: ignore[arg-type]
    return home


def test_the_clients_folder_is_private(server: ServerFolder, tmp_path: Path) -> None:
    home = client_of(server, tmp_path)
    assert not [name for name, mode in modes(home.path).items() if mode & 0o077]
    config = home.config()
    assert config.bundle_sha256 == bundle_sha256()
    assert config.recordings == tmp_path / "u.h5"
    assert config.device == "auto"
    with pytest.raises(ConfigError, match="already"):
        client_of(server, tmp_path)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"superlink": "no port"}, ConfigError),
        ({"superlink": "host:port"}, ConfigError),
        ({"device": "tpu"}, ConfigError),
        ({"user": "../alice"}, ConfigError),
        ({"policy": "none of that name"}, ConfigError),
        ({"recordings": Path("/nowhere.h5")}, DataError),
        ({"root_certificates": Path("/nowhere.pem")}, ConfigError),
        ({"trusted": Path("/nowhere.txt")}, ReleaseError),
    ],
)
def test_a_wrong_setting_is_one_line_and_leaves_nothing(
    server: ServerFolder, tmp_path: Path, changes: dict[str, object], error: type[EmgupError]
) -> None:
    with pytest.raises(error) as raised:
        client_of(server, tmp_path, **changes)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "home").exists()


@given(st.dictionaries(st.sampled_from(["user", "superlink", "bundle_sha256", "device", "threads", "x"]), st.text()))
def test_any_client_yaml_is_a_config_or_one_line(data: dict[str, object]) -> None:
    try:
        config = parse(ClientConfig, {"recordings": "u.h5", **data}, "client.yaml")
    except ConfigError as error:
        text = str(error)
    else:
        text = ""
        assert set(data) <= set(ClientConfig.model_fields)
        assert config.device in ("auto", "cpu", "cuda", "mps")
    assert "\n" not in text


def test_the_device_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert {choose_device(d) for d in ("auto", "cpu", "cuda", "cuda:1", "mps")} == {"cpu"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    chosen = [choose_device(d) for d in ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps")]
    assert chosen == ["cuda", "cpu", "cuda", "cuda:0", "cpu", "cpu"]


def test_a_method_runs_only_as_it_is_shipped_and_listed(server: ServerFolder, tmp_path: Path) -> None:
    config = client_of(server, tmp_path).config()
    check_method(config, "adabn", load_method("adabn"))
    for name, method in (
        ("shot", load_method("shot")),
        ("adabn", load_method("source_only")),
        ("emgup", load_method("emgup_paper")),
        (str(tmp_path / "own.yaml"), load_method("adabn")),
    ):
        with pytest.raises(ConfigError, match="not among those"):
            check_method(config, name, method)
