"""Gates under test, with a SuperLink and a SuperNode made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.egress.gate_sums import make_policy
from tests.client.egress.stub import HandMadeNode, StubSuperLink


@pytest.fixture
def node(tmp_path: Path) -> Iterator[HandMadeNode]:
    made = HandMadeNode(tmp_path / "home", StubSuperLink())
    made.activate()
    yield made
    made.close()


@pytest.fixture
def sum_node(tmp_path: Path) -> Iterator[HandMadeNode]:
    made = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy())
    made.activate()
    yield made
    made.close()
