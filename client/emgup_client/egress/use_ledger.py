"""The ledger of uses: what was ever reported, debited durably before anything is sent.

The same release and cell are always answered with the same values. That costs no epsilon, but one status: the moment of
an answer tells a little, too. Limits hold over restarts, kills, and a clock set
back: time never runs backwards in here, so a clock set back gives no second day.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from emgup_client.egress.appending import AppendOnly
from emgup_client.egress.noise import noisy_levels
from emgup_client.egress.policy import EgressPolicy
from emgup_client.egress.record import EgressError
from emgup_model.config import Frozen
from emgup_model.errors import DataError
from emgup_model.report_wire import check_levels

FILE = "uses.jsonl"
_DAY = 86_400


class _Use(Frozen):
    time: float = Field(ge=0)
    kind: str = Field(pattern="^(report|status|sum)$")
    release: str = ""
    cell: str = ""
    epsilon: float | None = None
    levels: dict[str, int] | None = None


class UseLedger:
    """The ledger of one client home, held by one gate.

    Raises:
        DataError: the ledger is damaged, or another process holds it.
    """

    def __init__(self, home: Path, policy: EgressPolicy, clock: Callable[[], float] = time.time) -> None:
        self._policy, self._clock = policy, clock
        self._lock = threading.Lock()
        self._file = AppendOnly(home / FILE)
        try:
            self._uses = [_Use.model_validate(line) for line in self._file.lines]
        except ValidationError:
            self._file.close()
            raise DataError(f"{home / FILE} is damaged; nothing may leave until it is put right") from None

    @property
    def reports(self) -> int:
        """How many fresh reports were ever made."""
        return sum(u.kind == "report" for u in self._uses)

    @property
    def epsilon(self) -> float:
        """Epsilon spent by all reports ever; infinite once one went without noise."""
        return sum(math.inf if u.epsilon is None else u.epsilon for u in self._uses if u.kind == "report")

    def report(self, release: str, cell: str, levels: Mapping[str, int]) -> tuple[dict[str, int], bool]:
        """(wire levels that may be sent for a release and cell, whether they are fresh, and debited now).

        Args:
            release, cell: what is reported on.
            levels: the policy's levels 0 … 2**bits - 1, without noise; not looked at where the answer is known.

        Raises:
            EgressError: a limit of the policy is reached.
            OSError: the debit could not be made durable; nothing may be sent.
        """
        with self._lock:
            limits, now = self._policy.limits, self._now()
            if (known := self.known(release, cell)) is not None:
                self._debit_status(now)
                return known, False
            if self.reports >= limits.reports_for_life:
                raise EgressError("the policy's number of reports for life is used up")
            if self._today("report", now) >= limits.reports_per_day:
                raise EgressError("the policy's number of reports for a day is used up")
            noisy, epsilon = noisy_levels(self._policy, levels)
            if limits.epsilon_for_life is not None and self.epsilon + epsilon > limits.epsilon_for_life * (1 + 1e-6):
                raise EgressError("the policy's epsilon for life is used up")
            wire = {name: self._policy.scalars[name].on_wire(level) for name, level in noisy.items()}
            spent = None if math.isinf(epsilon) else epsilon
            self._add({"kind": "report", "release": release, "cell": cell, "epsilon": spent, "levels": wire}, now)
            return wire, True

    def known(self, release: str, cell: str) -> dict[str, int] | None:
        """The wire levels that were debited for a release and cell; None where there are none."""
        for use in self._uses:
            if use.kind == "report" and (use.release, use.cell) == (release, cell) and use.levels:
                return check_levels(use.levels)
        return None

    def join_sum(self) -> None:
        """Debit one secure sum, whose report was debited before. Raises EgressError and OSError like :meth:`report`."""
        with self._lock:
            rules, now = self._policy.sum, self._now()
            if rules is None:
                raise EgressError("the policy allows no secure sum")
            if sum(u.kind == "sum" for u in self._uses) >= rules.for_life:
                raise EgressError("the policy's number of secure sums for life is used up")
            if self._today("sum", now) >= rules.per_day:
                raise EgressError("the policy's number of secure sums for a day is used up")
            self._add({"kind": "sum"}, now)

    def status(self) -> None:
        """Debit one reply without a report. Raises EgressError and OSError like :meth:`report`."""
        with self._lock:
            self._debit_status(self._now())

    def close(self) -> None:
        """Let another process have the ledger."""
        self._file.close()

    def _debit_status(self, now: float) -> None:
        limits = self._policy.limits
        if sum(u.kind == "status" for u in self._uses) >= limits.statuses_for_life:
            raise EgressError("the policy's number of statuses for life is used up")
        if self._today("status", now) >= limits.statuses_per_day:
            raise EgressError("the policy's number of statuses for a day is used up")
        self._add({"kind": "status"}, now)

    def _now(self) -> float:
        return max(self._clock(), max((u.time for u in self._uses), default=0.0))

    def _today(self, kind: str, now: float) -> int:
        return sum(u.kind == kind and u.time > now - _DAY for u in self._uses)

    def _add(self, use: dict[str, Any], now: float) -> None:
        line = {"time": now, **use}
        self._file.append(line)
        self._uses.append(_Use.model_validate(line))
