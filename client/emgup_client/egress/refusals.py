"""Refusals: noted in the audit log with their reason."""

from __future__ import annotations

import logging
from collections import Counter

from emgup_client.egress.audit import AuditLog
from emgup_client.egress.upstream import Answer

log = logging.getLogger(__name__)

MAX_NOTED = 1000
"""Refusals of one kind that a gate notes."""


class Refusals:
    """Notes refusals, unless there were so many of a kind that the log would only fill the disk."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._counts: Counter[str] = Counter()

    def note(self, kind: str, reason: str, status: int = 400) -> Answer:
        """Note one; what the SuperNode is answered."""
        self._counts[kind] += 1
        try:
            if self._counts[kind] <= MAX_NOTED:
                last = ": from here on such refusals are not noted" if self._counts[kind] == MAX_NOTED else ""
                self._audit.note(kind, False, reason + last)
        except OSError:
            log.exception("a refusal could not be noted")
        log.warning("refused %s: %s", kind, reason)
        return Answer(status)
