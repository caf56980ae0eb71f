"""The secure sums that this client takes part in: their secrets are the gate's, in memory only.

A gate that ends forgets its sums, and the server begins new ones. The report that is summed is in the ledger, debited
with its noise when the app gave it: every sum, and a report that leaves alone, shows the same noisy values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from emgup_client.egress.policy import EgressPolicy
from emgup_client.egress.record import EgressError
from emgup_client.egress.secure_sum import SumClient
from emgup_client.egress.use_ledger import UseLedger
from emgup_model.secure_sum_wire import ROUNDS, Cohort, FromClient, Inbox, Invite, decode
from emgup_model.wire import WireError

MAX_SESSIONS = 16
"""Sessions that are remembered; the oldest is forgotten first."""


class Sums:
    """The sums of one gate."""

    def __init__(self, policy: EgressPolicy, ledger: UseLedger) -> None:
        self._policy, self._ledger = policy, ledger
        self._sessions: OrderedDict[str, SumClient | None] = OrderedDict()

    def answer(self, kind: str, values: Mapping[Any, Any]) -> FromClient:
        """The answer to one round, debited already.

        Args:
            kind: type of the message, one of ``ROUNDS``.
            values: what it holds, as received.

        Raises:
            EgressError: nothing may be sent, with the reason; that session is over, unless the round was out of order.
            OSError: the debit could not be made durable; nothing may be sent.
        """
        try:
            asked = decode(ROUNDS[kind].asked, values)
        except WireError as e:
            raise EgressError(str(e)) from None
        if isinstance(asked, Invite):
            return self._begin(asked).advertise()
        client = self._sessions.get(asked.session)
        if client is None:
            raise EgressError("a round of no open secure sum")
        try:
            if isinstance(asked, Cohort):
                return client.share(asked)
            return client.masked(asked) if isinstance(asked, Inbox) else client.unmask(asked)
        finally:
            if client.over:
                self._sessions[asked.session] = None  # its secrets are of no more use

    def _begin(self, invite: Invite) -> SumClient:
        if self._policy.sum is None:
            raise EgressError("the policy allows no secure sum")
        if invite.session in self._sessions:
            raise EgressError("a secure sum that was begun before")
        levels = self._ledger.known(invite.release_id, invite.cell)
        if levels is None:
            raise EgressError("a secure sum of a report that was never made")
        if list(levels) != list(self._policy.scalars):
            raise EgressError("the policy names other scalars than the report that was made")
        client = SumClient(invite.session, levels, self._policy.sum.floor)
        self._ledger.join_sum()
        self._sessions[invite.session] = client
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return client
