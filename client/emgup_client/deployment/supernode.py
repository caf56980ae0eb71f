"""`python -m emgup_client.deployment.supernode HOME ARGUMENTS`: Flower's SuperNode, which answers no foreign bundle.

A run with another bundle is answered with Flower's fixed error INVALID_FAB, before any of its messages is stored and
without the bundle being opened. The process that runs the ClientApp checks once more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.supercore.fab import Fab
from flwr.supernode import start_client_internal as worker
from flwr.supernode.cli.flower_supernode import flower_supernode

from emgup_client.deployment.bundle import BundleRefusedError, check_bundle
from emgup_client.deployment.config import ClientHome
from emgup_model.replacing import replace

VERIFIED = "valid_license"
"""Flower's own sign that a bundle's verifications are to be looked at."""


def pin(sha256: str) -> None:
    """Make the SuperNode of this process verify every bundle against one hash.

    Flower verifies bundles where trusted entities are given, and answers one that fails with INVALID_FAB: that
    verification is replaced by ours.
    """

    @contextmanager
    def connected(*args: Any, **kwargs: Any) -> Iterator[tuple[Any, ...]]:
        with connect(*args, **kwargs) as (node, receive, send, get_run, get_fab, *rest):
            yield node, receive, send, get_run, _marked(get_fab), *rest

    def verified(fab: Fab, _: dict[str, str]) -> bool:
        try:
            check_bundle(fab.content, sha256)
        except BundleRefusedError as e:
            print(f"emgup: {e}", file=sys.stderr)
            return False
        return True

    def always_verifying(*args: Any, **kwargs: Any) -> Any:
        return pull(*args, **{**kwargs, "trusted_entities": {"emgup": sha256}})

    connect = replace(worker, "http_request_response", connected)
    pull = replace(worker, "_pull_and_store_message", always_verifying)
    replace(worker, "_verify_fab", verified)


def _marked(get_fab: Callable[[str, int], Fab]) -> Callable[[str, int], Fab]:
    def get(fab_hash: str, run_id: int) -> Fab:
        fab = get_fab(fab_hash, run_id)
        return Fab(fab.hash_str, fab.content, {VERIFIED: "yes"})

    return get


def main() -> None:
    """Serve until SIGTERM, or until the connection is beyond repair: then end, to be started again."""
    home = ClientHome(Path(sys.argv[1]))
    pin(home.config().bundle_sha256)
    sys.argv = ["flower-supernode", *sys.argv[2:]]
    flower_supernode()
    # Flower returns when its loop ended on an error, and leaves its HTTP server running, which would keep the process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()
