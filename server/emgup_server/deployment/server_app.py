"""The ServerApp of a deployed run: read the job, ask the clients, keep what they answer."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from emgup_model.errors import ConfigError, RunError
from emgup_model.lock import exclusive
from emgup_server.deployment.answers import Answers
from emgup_server.deployment.collect import collect
from emgup_server.deployment.job import RunFiles, read_job
from emgup_server.deployment.sums import Sums, sum_methods
from emgup_server.exchange import Limits
from emgup_server.transcript import TranscriptGrid

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point named by the bundle. Raises RunError when no client answered at all."""
    _log_to_stdout()
    path = context.run_config.get("job")
    if not isinstance(path, str) or not path:
        raise ConfigError("run-config job: start runs with emgup server run")
    run = RunFiles(Path(path).parent)
    job = read_job(run.job)
    limits = Limits(
        poll_s=0.5,
        reply_timeout_s=job.reply_timeout_s,
        retry_s=5.0,
        max_retry_s=60.0,
        losses=4,
        node_wait_s=max(job.wait_s, 0.5),
    )
    with exclusive(run.lock, RunError("another run is collecting the same answers; wait for it")):
        labels = {node.node_id: node.name for node in grid.get_nodes() if node.name}
        noting, answers = TranscriptGrid(grid, run.transcript), Answers(run.answers)
        complete = collect(noting, job, answers, labels, limits)
        if job.secure_sum:
            sum_methods(noting, job, answers, Sums(run.sums), labels, limits.poll_s)
    if not complete:
        raise RunError("no client gave an answer")


def _log_to_stdout() -> None:
    """Our own messages into the run's log, which Flower makes of what the ServerApp prints."""
    os.umask(0o077)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("emgup: %(message)s"))
    logger = logging.getLogger("emgup_server")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
