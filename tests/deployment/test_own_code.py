"""A bundle is compared and never run: in the SuperNode's process, and again in the ClientApp's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files
from hypothesis import given
from hypothesis import strategies as st

from emgup_client.deployment.bundle import BundleRefusedError, check_bundle
from emgup_client.deployment.initialise import bundle_sha256
from emgup_model.bundle import bundle_files
from emgup_model.replacing import replace
from emgup_server.deployment.control import build_bundle

BUNDLE = build_bundle()

TASK = """
import sys
from emgup_client.deployment.task import use_own_code
from flwr.supernode.runtime import run_clientapp as runtime
use_own_code(sys.argv[1])
runtime.install_from_fab(open(sys.argv[2], "rb").read(), skip_prompt=True)
load = runtime.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
app = load("evil/app", "1.0", "0" * 64)
from emgup_client.deployment import client_app
assert app is client_app.app
print(client_app.__file__)
"""

SUPERNODE = """
import sys
from contextlib import contextmanager
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal as worker
from flwr.supernode.nodestate import NodeStateFactory
from emgup_client.deployment.supernode import pin

pinned, path = sys.argv[1:]
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
message = Message(RecordDict({"request": ConfigRecord({"a": 1})}), dst_node_id=7, message_type="train")
message.metadata.__dict__["_message_id"] = message.object_id
run = Run.create_empty(1)
run.fab_hash = pinned
pulled = []

@contextmanager
def connection(*_, **__):
    fab = Fab(pinned, open(path, "rb").read(), {})
    pull = lambda run_id, object_id: pulled.append(object_id) or b""
    yield (7, lambda: (message, get_object_tree(message)), None, lambda _: run, lambda *_: fab, pull, None, None)

worker.http_request_response = connection
pin(pinned)
objects = ObjectStoreFactory()
state = NodeStateFactory(objectstore_factory=objects).state()
state.set_node_id(7)
with worker.http_request_response() as (node, receive, send, get_run, get_fab, pull_object, push_object, confirm):
    worker._pull_and_store_message(
        state=state, object_store=objects.store(), node_config={}, receive=receive, get_run=get_run, get_fab=get_fab,
        pull_object=pull_object, confirm_message_received=confirm, trusted_entities=None,
    )
replies = state.get_messages_legacy(is_reply=True)
print(len(pulled), [r.error.code for r in replies])
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A bundle that would be loaded in place of the installed package."""
    evil = {"emgup_client/__init__.py": b"raise SystemExit('evil code ran')\n", **bundle_files()}
    evil["pyproject.toml"] = evil["pyproject.toml"].replace(b'["pyproject.toml"]', b'["**/*.py"]')
    path = tmp_path / "foreign.fab"
    path.write_bytes(build_fab_from_files(evil)[0])
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.fab"
    path.write_bytes(BUNDLE)
    return path


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_server_and_client_build_the_same_bytes_without_code() -> None:
    check_bundle(BUNDLE, bundle_sha256())
    assert set(bundle_files()) == {"pyproject.toml"}
    assert b".py\n" not in BUNDLE


@given(st.integers(0, len(BUNDLE) - 1), st.integers(1, 255))
def test_one_changed_byte_is_refused(position: int, change: int) -> None:
    data = BUNDLE[:position] + bytes([BUNDLE[position] ^ change]) + BUNDLE[position + 1 :]
    with pytest.raises(BundleRefusedError):
        check_bundle(data, bundle_sha256())


def test_a_client_app_process_refuses_a_foreign_bundle(foreign: Path) -> None:
    done = run(TASK, bundle_sha256(), foreign)
    assert done.returncode == 1
    assert "BundleRefusedError" in done.stderr
    assert "evil" not in done.stdout + done.stderr


def test_a_client_app_process_loads_the_installed_app_whatever_the_bundle_names(own: Path) -> None:
    done = run(TASK, bundle_sha256(), own)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parts[-3:] == ("emgup_client", "deployment", "client_app.py")


def test_a_supernode_answers_a_foreign_bundle_with_an_error_and_pulls_nothing(foreign: Path) -> None:
    done = run(SUPERNODE, bundle_sha256(), foreign)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 [7]"  # no object, INVALID_FAB


def test_replacing_what_is_not_there_is_an_error() -> None:
    from emgup_model import bundle

    with pytest.raises(AttributeError):
        replace(bundle, "nothing_of_that_name", None)
