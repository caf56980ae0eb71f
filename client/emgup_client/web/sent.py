"""Every byte that ever left this machine: the audit log, with its chain of hashes checked.

One JSON object a line: seq, time, direction, kind, allowed, reason, bytes (base64 of what was sent; absent where it was
refused), prev, hash. hash is the SHA-256 of the line's canonical JSON without "hash", prev that of the line before.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emgup_model.config import digest

AUDIT = "audit.jsonl"
GENESIS = "0" * 64


@dataclass(frozen=True)
class Sent:
    """The log as it is read.

    Attributes:
        lines: whole lines up to the first that is damaged, oldest first.
        problem: what is wrong with the next one; None for an intact chain.
    """

    lines: tuple[dict[str, Any], ...]
    problem: str | None

    def table(self) -> dict[str, Any]:
        """Rows without their bytes, totals, and the state of the chain."""
        rows = [
            {k: line.get(k) for k in ("seq", "time", "kind", "allowed", "reason", "hash")} | {"bytes": _size(line)}
            for line in self.lines
        ]
        return {
            "rows": rows,
            "bytes": sum(row["bytes"] or 0 for row in rows),
            "sent": sum(row["bytes"] is not None for row in rows),
            "refused": sum(not row["allowed"] for row in rows),
            "problem": self.problem,
            "last_hash": self.lines[-1]["hash"] if self.lines else GENESIS,
        }

    def content(self, seq: int) -> bytes | None:
        """The exact bytes of line ``seq``; None where there are none."""
        if not 0 <= seq < len(self.lines) or "bytes" not in self.lines[seq]:
            return None
        return base64.b64decode(self.lines[seq]["bytes"])


def read_sent(home: Path) -> Sent:
    """Read and check ``home``'s audit log; one that is absent is an empty one."""
    try:
        data = (home / AUDIT).read_bytes()
    except FileNotFoundError:
        return Sent((), None)
    except OSError as e:
        return Sent((), f"the audit log cannot be read: {e.strerror}")
    lines: list[dict[str, Any]] = []
    prev = GENESIS
    for raw in data[: data.rfind(b"\n") + 1].splitlines():  # a line without an end is still being written
        line = _intact(raw)
        if line is None:
            return Sent(tuple(lines), f"line {len(lines) + 1} of the audit log was changed")
        if line["prev"] != prev or line["seq"] != len(lines):
            return Sent(tuple(lines), f"line {len(lines) + 1} of the audit log does not follow the one before it")
        lines.append(line)
        prev = line["hash"]
    return Sent(tuple(lines), None)


def _intact(raw: bytes) -> dict[str, Any] | None:
    """A line whose hash is right; None for anything else."""
    try:
        line: dict[str, Any] = json.loads(raw)
        if digest({k: v for k, v in line.items() if k != "hash"}) != line["hash"]:
            return None
        base64.b64decode(line.get("bytes", ""), validate=True)
        return line if {"seq", "prev", "allowed"} <= set(line) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _size(line: dict[str, Any]) -> int | None:
    return len(base64.b64decode(line["bytes"])) if "bytes" in line else None
