"""Fixtures of the method tests."""

from __future__ import annotations

import pytest

from emgup_model.backbones import Backbone
from emgup_model.methods.base import copy_model
from tests.model.methods.toys import train_toy_model


@pytest.fixture(scope="session")
def trained_once() -> Backbone:
    return train_toy_model()


@pytest.fixture
def trained(trained_once: Backbone) -> Backbone:
    """A copy of a model that knows the toy gestures."""
    return copy_model(trained_once)
