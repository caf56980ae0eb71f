"""`python -m emgup_client.sandbox.enter --rules JSON COMMAND …`: confine this process, then become the command.

Where the rules say ``only_to``, the command runs in a process of its own below this one, which makes its sockets.
"""

from __future__ import annotations

import argparse
import os
import sys

from emgup_client.sandbox.connector import REFUSED, run_connected
from emgup_client.sandbox.paths import restrict as restrict_paths
from emgup_client.sandbox.rules import Rules
from emgup_client.sandbox.sockets import restrict as restrict_sockets
from emgup_client.sandbox.support import look


def main() -> int:
    """Confine, then run. Returns only when the command did not start, or ended below this process."""
    parser = argparse.ArgumentParser(prog="emgup-sandbox")
    parser.add_argument("--rules", type=Rules.model_validate_json, required=True)
    parser.add_argument("--watch", type=int, help="process id of the parent; when it is gone, the command is ended")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    rules: Rules = given.rules
    look()  # the C library is found with files that are out of reach afterwards
    try:
        if rules.only_to is not None:
            return run_connected(rules, given.command, given.watch)
        restrict_paths(rules)
        restrict_sockets(rules)
        os.execv(given.command[0], given.command)
    except (OSError, ValueError) as e:
        print(f"sandbox: {e}", file=sys.stderr)
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
