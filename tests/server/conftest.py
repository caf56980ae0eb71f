from __future__ import annotations

import pytest

from emgup_model.methods import load_method
from emgup_server.ledger import Cell


@pytest.fixture
def cells() -> list[Cell]:
    """Six users with two cells each."""
    return [
        Cell(
            dataset="toy",
            backbone="cnn",
            method=method,
            config=load_method(method),
            protocol="transductive",
            scenario="balanced",
            fold=0,
            user=f"u{user}",
            seed=0,
            release_id="f" * 64,
            key=f"{user}{m}".rjust(64, "0"),
        )
        for user in range(6)
        for m, method in enumerate(("source_only", "adabn"))
    ]
