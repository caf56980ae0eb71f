"""Files found in a raw dataset, before anything about them is understood, and what is left out of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Dropped:
    """Recordings left out on purpose."""

    reason: str
    recordings: int
    users: tuple[str, ...]


@dataclass
class Entry:
    """One file and what its name or table row says about it, still as text."""

    relative: str
    fields: dict[str, str]
    drop: str = ""
    mirror: bool = False


@dataclass
class Drops:
    """Tally of what was left out, by reason in order of appearance."""

    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, user: str) -> None:
        """Count one recording of a user."""
        self.found[reason].append(user)

    def tally(self, kept: set[str]) -> tuple[Dropped, ...]:
        """What was left out; the users named are those of whom nothing is in ``kept``."""
        return tuple(
            Dropped(reason, len(users), tuple(sorted(set(users) - kept))) for reason, users in self.found.items()
        )
