"""`emgup server run`: submit a job, follow it to its end, judge it by its answers and not by Flower's word alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emgup_model.errors import RunError
from emgup_model.keys import public_key, read_signing_key
from emgup_model.methods import load_method
from emgup_model.release import load_release
from emgup_server.deployment.answers import Answer, Answers
from emgup_server.deployment.control import Control, Node, RunState, build_bundle
from emgup_server.deployment.folder import ServerFolder
from emgup_server.deployment.job import Job, RunFiles

POLL_S = 1.0
PATIENCE_S = 60.0
"""How long the SuperLink may be away while a run goes on: it is being restarted."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: every registered client's answers, clients without one, and Flower's own word."""

    answers: tuple[Answer, ...]
    absent: tuple[Node, ...]
    flower: RunState

    @property
    def partial(self) -> bool:
        """Whether a client or an answer is missing."""
        return bool(self.absent) or any(not a.complete for a in self.answers)

    @property
    def good(self) -> bool:
        """Whether every client gave every answer."""
        return self.flower.completed and not self.partial and bool(self.answers)


def prepare(
    folder: ServerFolder, name: str | None, release: Path, methods: Sequence[str], **patience: object
) -> tuple[RunFiles, Job]:
    """Check what is asked and write it down.

    Raises:
        ReleaseError: the release is not signed by this server (``emgup server sign``).
        ConfigError: an unknown method; or a run of that name asked for something else.
    """
    opened = load_release(release, [public_key(read_signing_key(folder.signing_key))])
    job = Job.model_validate(
        {
            "release": str(release.resolve()),
            "release_id": opened.id,
            "methods": {m: load_method(m) for m in methods},
            **patience,
        }
    )
    run = RunFiles((folder.runs / (name or opened.id[:12])).resolve())
    run.save(job)
    return run, job


def submit_and_follow(
    control: Control, run: RunFiles, job: Job, tick: Callable[[list[Answer]], None], bundle: bytes | None = None
) -> Outcome:
    """Start the run and wait for its end; Ctrl-C ends the run too.

    Args:
        control: connection to the SuperLink.
        run, job: from :func:`prepare`.
        tick: called with the answers so far.
        bundle: None for the one that clients accept.

    Raises:
        RunError: the SuperLink does not start the run, or stays away.
    """
    answers = Answers(run.answers)
    started = control.start(run.job, bundle or build_bundle())
    try:
        state = _follow(control, started, lambda: tick(answers.all()))
    except KeyboardInterrupt:
        control.stop(started)
        raise
    wanted = {job.cell(m) for m in job.methods}
    mine = tuple(a for a in answers.all() if a.cell in wanted)
    heard = {a.node for a in mine}
    return Outcome(mine, tuple(n for n in control.nodes() if n.id not in heard), state)


def _follow(control: Control, run: int, tick: Callable[[], None]) -> RunState:
    seen = time.monotonic()
    while True:
        try:
            state = control.state(run)
            seen = time.monotonic()
            if state.finished:
                return state
        except RunError:
            if time.monotonic() - seen > PATIENCE_S:
                raise
        tick()
        time.sleep(POLL_S)
