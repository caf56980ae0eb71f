"""`emgup server run`: submit a job, follow it to its end, judge it by its answers and not by Flower's word alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emgup_model.errors import RunError
from emgup_model.keys import public_key, read_signing_key
from emgup_model.methods import load_method
from emgup_model.release import load_release
from emgup_model.wire import Status
from emgup_server.deployment.answers import Answer, Answers
from emgup_server.deployment.control import Control, Node, RunState, build_bundle
from emgup_server.deployment.folder import ServerFolder
from emgup_server.deployment.job import Job, RunFiles
from emgup_server.deployment.sums import Sum, Sums

POLL_S = 1.0
PATIENCE_S = 60.0
"""How long the SuperLink may be away while a run goes on: it is being restarted."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: every registered client's answers, clients without one, sums, and Flower's own word."""

    answers: tuple[Answer, ...]
    absent: tuple[Node, ...]
    flower: RunState
    sums: tuple[Sum, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether a client or an answer is missing, or a client in a sum."""
        held = Counter(a.method for a in self.answers if a.status == Status.HELD.name.lower())
        short = any(not s.complete or len(s.members) < held[s.method] for s in self.sums)
        return bool(self.absent) or any(not a.complete for a in self.answers) or short

    @property
    def good(self) -> bool:
        """Whether every client gave every answer."""
        return self.flower.completed and not self.partial and bool(self.answers)


def prepare(
    folder: ServerFolder, name: str | None, release: Path, methods: Sequence[str], **options: object
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
            **options,
        }
    )
    known_as = name or opened.id[:12] + ("-sum" if job.secure_sum else "")
    run = RunFiles((folder.runs / known_as).resolve())
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
    absent = tuple(n for n in control.nodes() if n.id not in heard)
    return Outcome(mine, absent, state, _sums(run, job) if job.secure_sum else ())


def _sums(run: RunFiles, job: Job) -> tuple[Sum, ...]:
    """The sum of every method; one that the run did not get to is failed."""
    known = Sums(run.sums)
    cells = {m: job.cell(m) for m in job.methods}
    return tuple(known.read(c) or Sum(cell=c, method=m, state="failed", why="not begun") for m, c in cells.items())


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
