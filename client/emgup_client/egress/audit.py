"""The audit log: every byte that left this machine and every refusal, one hash-linked JSON line each.

A line is {"seq", "time", "direction", "kind", "allowed", "reason", "bytes", "prev", "hash"}. "bytes" (base64) is the
exact body of the request that was sent, absent where nothing was. "hash" is the SHA-256 of the line's canonical JSON
without "hash", "prev" the hash of the line before. Changing, removing or inserting a line breaks the chain; cutting
lines off the end does not, so compare the last hash with one you noted.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emgup_client.egress.appending import AppendOnly, parse_lines
from emgup_model.config import digest
from emgup_model.errors import DataError

FILE = "audit.jsonl"
GENESIS = "0" * 64
_FIELDS = {"seq", "time", "direction", "kind", "allowed", "reason", "prev", "hash"}


class AuditLog:
    """The log of one client home, held by one gate.

    Raises:
        DataError: the log is damaged, or another process holds it.
    """

    def __init__(self, home: Path) -> None:
        self._file = AppendOnly(home / FILE)
        self._lock = threading.Lock()
        problem = first_break(self._file.lines)
        if problem is not None:
            self._file.close()
            raise DataError(f"{home / FILE} {problem}; move the file away to start a new log")
        if self._file.torn_bytes:
            self.note("recovered", True, f"a last line torn by a kill was cut off ({self._file.torn_bytes} bytes)")

    def note(self, kind: str, allowed: bool, reason: str, sent: bytes | None = None) -> None:
        """Add a line; it is durable on return. Raises OSError, and then nothing may be sent."""
        with self._lock:
            lines = self._file.lines
            line: dict[str, Any] = {
                "seq": len(lines),
                "time": round(time.time(), 3),
                "direction": "out",
                "kind": kind,
                "allowed": allowed,
                "reason": reason,
                "prev": lines[-1]["hash"] if lines else GENESIS,
            }
            if sent is not None:
                line["bytes"] = base64.b64encode(sent).decode()
            line["hash"] = digest(line)
            self._file.append(line)

    def close(self) -> None:
        """Let another process have the log."""
        self._file.close()


def first_break(lines: Iterable[dict[str, Any]]) -> str | None:
    """What is wrong with the first line that does not follow from those before it; None for an intact chain."""
    prev = GENESIS
    for number, line in enumerate(lines):
        bare = {k: v for k, v in line.items() if k != "hash"}
        if not _FIELDS <= set(line) <= _FIELDS | {"bytes"}:
            return f"line {number + 1} is no line of the audit log"
        try:
            intact = digest(bare) == line["hash"]
        except ValueError:
            intact = False
        if not intact:
            return f"line {number + 1} was changed"
        if line["prev"] != prev or line["seq"] != number:
            return f"line {number + 1} does not follow the one before it: something was removed or inserted"
        prev = line["hash"]
    return None


def read_audit(home: Path) -> list[dict[str, Any]]:
    """All whole lines of the log, oldest first; empty where there is none. Raises DataError for a damaged line."""
    path = home / FILE
    if not path.exists():
        return []
    data = path.read_bytes()
    return parse_lines(data[: data.rfind(b"\n") + 1], path)
