"""``python -m tests.client.adapt_and_die FOLDER METHOD WHEN [STREAMING]``: personalize, and die by SIGKILL on the way.

FOLDER: what :func:`tests.client.homes.make_home` made, with ``files.json`` to find the release.
METHOD: a method's settings as JSON.
WHEN: ``step:N`` (after the N-th optimiser step), ``rename:N`` (before the N-th file of tensors is put
in place), or ``never``.
STREAMING: sizes of block and memory as JSON, for the protocol of that name; else it is ``transductive``.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from emgup_client.app import ClientSettings, Subject, personalize_once
from emgup_model import personalize as personalization
from emgup_model.wire import Personalize


def die_at(count: int) -> Callable[..., None]:
    """A hook for anything: the ``count``-th call of it is the process's last act."""
    left = count

    def hook(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def arm(when: str) -> None:
    kind, _, count = when.partition(":")
    if kind == "step":
        register_optimizer_step_post_hook(die_at(int(count)))
    if kind == "rename":
        hook = die_at(int(count))

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if event == "os.rename" and ".safetensors" in str(arguments[0]):  # not Python's own .pyc files
                hook()

        sys.addaudithook(watch)


def main(folder: str, method: str, when: str, streaming: str | None = None) -> None:
    torch.set_num_threads(1)
    personalization.Checkpoints = functools.partial(  # type: ignore[misc,assignment]
        personalization.Checkpoints, every_s=0.0
    )
    home = Path(folder) / "home"
    [release] = [p.name for p in (home / "releases").iterdir()]
    recording = Path(folder) / "recordings" / "u0.h5"
    settings = ClientSettings(home, home / "trusted_release_keys.txt", lambda u: Subject("u0", recording), threads=1)
    request = Personalize(
        release_id=release,
        method=json.dumps(json.loads(method)),
        method_name="m",
        protocol="streaming" if streaming else "transductive",
        scenario="balanced",
        streaming=streaming,
        seed=3,
        cell="c" * 64,
        user="u0",
    )
    arm(when)
    print(personalize_once(request, settings).status.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
