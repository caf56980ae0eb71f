"""Serving the page: the web server in the main thread, the stream beside it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from emgup_client.live.decisions import Decider
from emgup_client.live.predict import predict
from emgup_client.live.sources import Source
from emgup_client.personalized import PersonalizedModel
from emgup_client.web.app import make_app
from emgup_client.web.feed import Feed
from emgup_client.web.guard import new_token
from emgup_model.errors import ConfigError, EmgupError

ADDRESS = "127.0.0.1"


def serve(
    home: Path,
    port: int,
    announce: Callable[[str], None],
    model: PersonalizedModel | None = None,
    source: Source | None = None,
    threshold: float = 0.0,
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        home: the client's private folder.
        port: on 127.0.0.1; 0 = a free one.
        announce: called with the page's address once it can be opened.
        model: the model that decides; with ``source``.
        source: the stream; None = the page shows the folder's state only.
        threshold: confidence below which a decision is rejected.

    Raises:
        ConfigError: the port is taken.
    """
    listener = _listen(port)
    token, chosen = new_token(), int(listener.getsockname()[1])
    stopped = threading.Event()
    feed = thread = None
    if model is not None and source is not None:
        feed = Feed(model.manifest)
        decider = Decider(model.model, model.manifest, threshold)
        thread = threading.Thread(target=_decide, args=(source, decider, feed, stopped), daemon=True)
    app = make_app(home, token, chosen, None if model is None else _facts(model, threshold), feed)
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=1
    )
    if thread is not None:
        thread.start()
    try:
        announce(f"http://{ADDRESS}:{chosen}/{token}/")
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        stopped.set()
        listener.close()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as e:
        raise ConfigError(f"cannot listen on {ADDRESS}:{port} ({e.strerror}); choose another --port") from None


def _decide(source: Source, decider: Decider, feed: Feed, stopped: threading.Event) -> None:
    try:
        predict(source, decider, feed.decision, feed.chunk, stopped.is_set)
        feed.status = "ended"
    except EmgupError as e:
        feed.status = f"stopped: {e}"
    except Exception as e:  # the page must say it; there is nobody else to see it
        feed.status = f"stopped by an error: {e!r}"


def _facts(model: PersonalizedModel, threshold: float) -> dict[str, Any]:
    return {
        "user": model.user,
        "release": model.release_id,
        "cell": model.cell,
        "gestures": list(model.manifest.gestures),
        "channels": model.manifest.channels,
        "rate": model.manifest.sampling_rate_hz,
        "threshold": threshold,
    }
