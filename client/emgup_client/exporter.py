"""The way out of a client: a mod that builds a fresh reply of bounded integers, whatever the app inside did.

It never filters an existing record. Exceptions become fixed codes; their text, and anything printed on the way, go to
the client's own log. The same schema is enforced again by the server, which trusts no client.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from emgup_client.vault import private_dir
from emgup_model.errors import ConfigError, DataError, NotApplicableError, ReleaseError, VaultError
from emgup_model.wire import REPLY, Reply, Status, WireError

LOG = "client.log"

_CODES: tuple[tuple[type[BaseException], Status], ...] = (
    (NotApplicableError, Status.NOT_APPLICABLE),
    (ReleaseError, Status.RELEASE_REFUSED),
    (ConfigError, Status.CONFIG_REFUSED),
    (DataError, Status.DATA_ERROR),
    (WireError, Status.REQUEST_REFUSED),
    (OSError, Status.STORAGE_ERROR),
    (VaultError, Status.STORAGE_ERROR),
)


def status_of(error: BaseException) -> Status:
    """The fixed code for an error: all that anybody else learns about it."""
    return next((status for kind, status in _CODES if isinstance(error, kind)), Status.INTERNAL)


def exporter(home: Callable[[Context], Path]) -> Mod:
    """The outermost mod of a client whose private folder is ``home(context)``."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        try:
            with _own_log(home(context)) as log:
                reply = _guarded(message, context, call_next, log)
        except Exception as error:  # no place for a log: even then nothing is printed
            reply = Reply(status=status_of(error))
        return Message(RecordDict({REPLY: MetricRecord(dict(reply.encode()))}), reply_to=message)

    return mod


def _guarded(message: Message, context: Context, call_next: ClientAppCallable, log: TextIO) -> Reply:
    try:
        out = call_next(message, context)
    except (Exception, SystemExit) as error:
        return _logged(error, status_of(error), message, log)
    try:
        if set(out.content) != {REPLY}:
            raise WireError("the app's reply is not one reply record")
        return Reply.decode(out.content.metric_records[REPLY])
    except Exception as error:
        return _logged(error, Status.INTERNAL, message, log)


def _logged(error: BaseException, status: Status, message: Message, log: TextIO) -> Reply:
    log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {message.metadata.message_type}: {status.name}\n")
    log.write("".join(traceback.format_exception(error)))
    return Reply(status=status)


@contextlib.contextmanager
def _own_log(home: Path) -> Iterator[TextIO]:
    """The client's log file; whatever this process prints while it is open goes there too."""
    path = private_dir(home) / LOG
    path.touch(mode=0o600)
    with (
        path.open("a", encoding="utf-8", errors="backslashreplace") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield log
