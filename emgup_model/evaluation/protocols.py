"""Named protocols: which of a user's windows adapt the model, and which ones test it. No label is consulted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from emgup_model.errors import DataError

if TYPE_CHECKING:  # the wire schema names the protocols: processes that only pass messages on load no torch for it
    import torch

    from emgup_model.data.store import RecordingInfo
    from emgup_model.data.windows import WindowedUser

Protocol = Literal["transductive", "inductive", "later_sessions", "streaming"]
"""transductive: adapt and test on the first session's windows (what the paper's predecessor does).
inductive: adapt on the first half of the first session's repetitions, test on its other repetitions.
later_sessions: adapt on the first session, test on all later ones; users with one session have no such row.
streaming: the first session in recording order, each block of it predicted before the model adapts on it."""


def split_recordings(
    recordings: Sequence[RecordingInfo], protocol: Protocol
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Names of the recordings to adapt on and to test on; None where the protocol does not apply to the user.

    Raises:
        DataError: ``inductive`` on a user whose first session has a single repetition.
    """
    first = min(r.session for r in recordings)
    session = [r for r in recordings if r.session == first]
    names = tuple(r.name for r in session)
    if protocol in ("transductive", "streaming"):
        return names, names
    if protocol == "later_sessions":
        later = tuple(r.name for r in recordings if r.session != first)
        return (names, later) if later else None
    repetitions = sorted({r.repetition for r in session})
    if len(repetitions) < 2:
        raise DataError(
            "the inductive protocol needs at least two repetitions in a user's first session; "
            "use protocols=[transductive]"
        )
    half = set(repetitions[: math.ceil(len(repetitions) / 2)])
    return (
        tuple(r.name for r in session if r.repetition in half),
        tuple(r.name for r in session if r.repetition not in half),
    )


def select(user: WindowedUser, names: Sequence[str]) -> torch.Tensor:
    """(N,) bool: windows of the recordings ``names``."""
    wanted = user.recording.new_tensor([n in set(names) for n in user.names]).bool()
    return wanted[user.recording]
