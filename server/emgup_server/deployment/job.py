"""What a run asks of every client, as data: the file that `emgup server run` writes and the ServerApp reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from emgup_model.config import Frozen, digest, dump_yaml, load_yaml, parse
from emgup_model.errors import ConfigError
from emgup_model.evaluation.protocols import Protocol
from emgup_model.files import write_atomic
from emgup_model.methods import MethodConfig
from emgup_model.provenance import result_identity

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Job(Frozen):
    """One run.

    Attributes:
        release, release_id: folder of a signed release, and its id.
        methods: by shipped name; a client accepts them only as it knows them itself.
        protocol, seed: as in experiments.
        nodes: clients to wait for; after ``wait_s`` seconds the run goes on without the others and is called partial.
        reply_timeout_s: seconds without word from any client after which an answer is given up.
        secure_sum: clients hold their reports, and the server learns the sum over the cohort only.
        round_s: seconds that each of the four rounds of a secure sum waits for answers.
    """

    release: str
    release_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    methods: dict[str, MethodConfig] = Field(min_length=1)
    protocol: Protocol = "transductive"
    seed: int = Field(0, ge=0, lt=1 << 63)
    nodes: int = Field(1, ge=1)
    wait_s: float = Field(60.0, ge=0)
    reply_timeout_s: float = Field(3600.0, gt=0)
    secure_sum: bool = False
    round_s: float = Field(180.0, gt=0)

    def cell(self, method: str) -> str:
        """Key of one method's result for any user: the client answers the same key from its vault."""
        return digest(
            {
                **result_identity(),
                "release": self.release_id,
                "method": method,
                "config": self.methods[method].model_dump(mode="json"),
                "protocol": self.protocol,
                "seed": self.seed,
            }
        )


@dataclass(frozen=True)
class RunFiles:
    """Where a run keeps what."""

    path: Path

    @property
    def job(self) -> Path:
        """What was asked."""
        return self.path / "job.yaml"

    @property
    def answers(self) -> Path:
        """One file for each client and method."""
        return self.path / "answers"

    @property
    def sums(self) -> Path:
        """One file for each method of a run with secure sums."""
        return self.path / "sums"

    @property
    def transcript(self) -> Path:
        """What the server received, byte for byte."""
        return self.path / "transcript.jsonl"

    @property
    def lock(self) -> Path:
        """Held while a ServerApp works on the run."""
        return self.path / ".lock"

    def save(self, job: Job) -> None:
        """Write the job; patience may change between calls, what is asked may not. Raises ConfigError."""
        if self.job.exists():
            known = read_job(self.job)
            if (
                known.secure_sum != job.secure_sum
                or any(known.cell(m) != job.cell(m) for m in known.methods if m in job.methods)
                or known.methods.keys() - (job.methods.keys())
            ):
                raise ConfigError(f"{self.path} is a run that asked for something else; choose another --name")
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        write_atomic(self.job, dump_yaml(job), mode=0o600)


def read_job(path: Path) -> Job:
    """The job of a file. Raises ConfigError."""
    return parse(Job, load_yaml(path), str(path))
