"""Audit logs as the gate writes them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from emgup_model.config import digest


def audit_lines(*messages: tuple[str, bytes | None]) -> list[dict[str, Any]]:
    """Linked lines: (kind, bytes sent); None = refused."""
    lines: list[dict[str, Any]] = []
    for kind, sent in messages:
        line: dict[str, Any] = {
            "seq": len(lines),
            "time": 1_760_000_000.0 + len(lines),
            "direction": "out",
            "kind": kind,
            "allowed": sent is not None,
            "reason": "as the policy says",
            "prev": lines[-1]["hash"] if lines else "0" * 64,
        }
        if sent is not None:
            line["bytes"] = base64.b64encode(sent).decode()
        line["hash"] = digest(line)
        lines.append(line)
    return lines


def write_audit(home: Path, lines: list[dict[str, Any]]) -> None:
    """Write the log."""
    (home / "audit.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
