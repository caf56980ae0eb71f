"""What the policy makes of a reply: allowed as it is, replaced by noisy levels, or refused."""

from __future__ import annotations

from emgup_client.egress.audit import AuditLog
from emgup_client.egress.policy import EgressPolicy
from emgup_client.egress.record import EgressError, policy_levels
from emgup_client.egress.use_ledger import UseLedger
from emgup_model.wire import DELIVER, OFFER, Personalize, Reply, Status

REPORT = "report"
"""Kind of the audit line that a fresh report was debited; its bytes follow when they are sent."""
_ALWAYS = {Status.RELEASE_REFUSED, Status.REQUEST_REFUSED, Status.STORAGE_ERROR, Status.INTERNAL}
STATUSES: dict[str, set[Status]] = {
    f"query.{OFFER}": _ALWAYS | {Status.HAVE_RELEASE, Status.NEEDS_RELEASE},
    f"query.{DELIVER}": _ALWAYS | {Status.HAVE_RELEASE},
    "train": _ALWAYS
    | {
        Status.DATA_ERROR,
        Status.CONFIG_REFUSED,
        Status.NOT_APPLICABLE,
        Status.NOT_EVALUATED,
        Status.CRASHED,
        Status.REPORTED,
    },
}
"""What may be answered to which kind of message. Exact metrics (``Status.OK``) leave in simulations only."""


class Ruling:
    """A policy, what was used of it, and the log that says so."""

    def __init__(self, policy: EgressPolicy, ledger: UseLedger, audit: AuditLog) -> None:
        self._policy, self._ledger, self._audit = policy, ledger, audit

    def rule(self, reply: Reply | None, kind: str, request: Personalize | None) -> Reply | None:
        """The reply that may be sent, debited already; None for the fixed error, which is what None becomes.

        Args:
            reply: what the app answered; None for an error.
            kind: type of the message that is answered.
            request: what was asked, if that was to personalize.

        Raises:
            EgressError: nothing may be sent, with the reason.
            OSError: the debit could not be made durable; nothing may be sent.
        """
        if reply is None:
            self._ledger.status()
            return None
        if reply.status not in STATUSES.get(kind, set()):
            raise EgressError(f"status {reply.status.name.lower()} is no answer to that")
        if reply.report is None:
            self._ledger.status()
            return reply
        if request is None:
            raise EgressError("a report on a request that is not valid")
        if request.for_sum and self._policy.sum is None:
            raise EgressError("the policy allows no secure sum")
        if not request.for_sum and self._policy.sum is not None and self._policy.sum.only:
            raise EgressError("the policy lets a report leave in a secure sum only")
        levels = policy_levels(self._policy, reply.report)
        sent, fresh = self._ledger.report(request.release_id, request.cell, levels)
        if fresh:
            self._audit.note(REPORT, True, f"report {self._ledger.reports} of {self._policy.reports} was debited")
        if not request.for_sum:
            return Reply(status=Status.REPORTED, report=sent)
        if fresh:  # else it was debited as a status already
            self._ledger.status()
        return Reply(status=Status.HELD)
