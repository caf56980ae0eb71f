"""`python -m emgup_client.deployment.task HOME …`: one ClientApp task, run with this installation's own code.

Flower would unpack the bundle and import what it names, from the bundle first. Here the bundle's bytes are compared
with the pinned hash, nothing is unpacked, and the app is the installed one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp as runtime

from emgup_client.deployment.bundle import check_bundle
from emgup_client.deployment.config import ClientHome
from emgup_model.replacing import replace

HOME = "EMGUP_CLIENT_HOME"
"""Environment variable, set by the process that starts the task, with the client's folder."""


def use_own_code(sha256: str) -> None:
    """Make a ClientApp process compare the bundle instead of installing it, and load the installed app."""

    def compare(content: bytes, **_: Any) -> None:
        check_bundle(content, sha256)

    replace(runtime, "install_from_fab", compare)
    replace(runtime, "get_project_dir", lambda *_: Path(os.devnull))
    replace(runtime, "get_load_client_app_fn", lambda **_: _load)


def _load(*_: str) -> ClientApp:
    from emgup_client.deployment.client_app import app

    return app


def main() -> None:
    """Run the task and end."""
    home = ClientHome(Path(sys.argv.pop(1)).resolve())
    os.environ[HOME] = str(home.path)
    os.umask(0o077)
    use_own_code(home.config().bundle_sha256)
    flwr_clientapp()


if __name__ == "__main__":
    main()
