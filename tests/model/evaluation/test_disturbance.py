"""Planted difficulty: what it does to the signal, and that it is the same wherever it is planted."""

from __future__ import annotations

import pytest
import torch

from emgup_model.errors import DataError
from emgup_model.evaluation.disturbance import UNDISTURBED, Disturbance
from tests.model.methods.toys import toy_user


def test_nothing_planted_is_nothing_changed() -> None:
    windows, _ = toy_user()
    assert torch.equal(UNDISTURBED.apply(windows, "u", True).signal, windows.signal)
    assert UNDISTURBED.label == ""


@pytest.mark.parametrize("turned", [1, -1, 3])
def test_a_turn_moves_every_channel_to_its_neighbour(turned: int) -> None:
    windows, _ = toy_user()
    moved = Disturbance(turned=turned).apply(windows, "u", True).signal
    for channel in range(4):
        assert torch.equal(moved[(channel + turned) % 4], windows.signal[channel])
    with pytest.raises(DataError, match="no ring"):
        Disturbance(turned=turned).apply(windows, "u", False)


def test_gains_are_one_per_channel_of_a_user_and_always_the_same() -> None:
    windows, _ = toy_user()
    gains = Disturbance(gain_log_sd=0.5)
    ratio = gains.apply(windows, "u", False).signal / windows.signal
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4)
    assert len({round(float(r), 4) for r in ratio[:, 0]}) == 4
    assert torch.equal(gains.apply(windows, "u", True).signal, gains.apply(windows, "u", False).signal)
    assert not torch.equal(gains.apply(windows, "v", True).signal, gains.apply(windows, "u", True).signal)


def test_labels_name_what_is_planted() -> None:
    assert Disturbance(turned=-1).label == "turned-1"
    assert Disturbance(turned=2, gain_log_sd=0.5).label == "turned+2_gains0.5"
