from __future__ import annotations

import pytest

from emgup_model.data.store import RecordingInfo
from emgup_model.errors import DataError
from emgup_model.evaluation.protocols import split_recordings


def infos(sessions: int = 1, repetitions: int = 3) -> list[RecordingInfo]:
    return [RecordingInfo(f"s{s}r{r}", s, r, float(r), 100) for s in range(sessions) for r in range(repetitions)]


def test_transductive_uses_the_first_session_twice() -> None:
    assert split_recordings(infos(2), "transductive") == (("s0r0", "s0r1", "s0r2"),) * 2


def test_streaming_goes_over_the_first_session() -> None:
    assert split_recordings(infos(2), "streaming") == (("s0r0", "s0r1", "s0r2"),) * 2


def test_inductive_adapts_on_the_first_half_of_the_repetitions_and_tests_on_the_others() -> None:
    split = split_recordings(infos(2), "inductive")
    assert split == (("s0r0", "s0r1"), ("s0r2",))


def test_inductive_needs_two_repetitions() -> None:
    with pytest.raises(DataError, match="two repetitions"):
        split_recordings(infos(1, 1), "inductive")


def test_later_sessions_never_adapt() -> None:
    assert split_recordings(infos(3, 1), "later_sessions") == (("s0r0",), ("s1r0", "s2r0"))
    assert split_recordings(infos(1), "later_sessions") is None
