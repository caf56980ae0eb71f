"""An experiment as data: which recordings, backbone, methods, protocols and scenarios, on how many nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from emgup_model.backbones import BackboneConfig, CnnConfig
from emgup_model.compute import ComputeConfig
from emgup_model.config import DEVICE, Frozen, apply_overrides, digest, find_config, load_yaml, parse
from emgup_model.data.folds import FoldConfig
from emgup_model.data.synthetic import SyntheticConfig
from emgup_model.data.windows import PreprocessingConfig, WindowConfig
from emgup_model.errors import ConfigError, RunError
from emgup_model.evaluation.protocols import Protocol
from emgup_model.evaluation.scenarios import Scenario
from emgup_model.evaluation.streaming import StreamingConfig
from emgup_model.methods import AdaBnConfig, MethodConfig
from emgup_model.pretrain import PretrainConfig


class FederationConfig(Frozen):
    """How the simulated federation runs. Nothing here changes a result."""

    supernodes: int = Field(2, ge=1, le=10_000, description="nodes; users are dealt to them, one message per cell")
    cpus_per_client: int = Field(1, ge=1)
    gpus_per_client: float = Field(0.0, ge=0, le=8, description="share of a GPU each client takes; 0 = CPU")
    pretrain_processes: int = Field(2, ge=1, le=256, description="folds trained at the same time")
    reply_timeout_s: float = Field(600.0, gt=0, description="a client that stays silent longer counts as failed")
    attempts: int = Field(3, ge=1, le=20, description="times the runtime is started again for cells that are missing")
    device: str = Field(
        "cpu", pattern=DEVICE, description="torch device for training and clients; auto = CUDA or MPS if there"
    )

    @model_validator(mode="after")
    def _clients_see_the_gpu(self) -> FederationConfig:
        if self.device.startswith("cuda") and not self.gpus_per_client:
            raise ValueError(
                f"device {self.device} needs gpus_per_client above 0: Ray hides the GPUs from clients else"
            )
        return self


class Experiment(Frozen):
    """Everything that determines a run's results, validated before any work starts."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    store: str | None = Field(None, description="folder of a recording store")
    synthetic: SyntheticConfig | None = Field(None, description="or: a synthetic cohort, made on first use")
    users: tuple[str, ...] | None = Field(None, min_length=1, description="a subset of the store's users; null = all")
    windows: WindowConfig = WindowConfig()
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    backbone: BackboneConfig = CnnConfig()
    pretrain: PretrainConfig = PretrainConfig()
    compute: ComputeConfig = ComputeConfig()
    folds: FoldConfig = FoldConfig()
    only_folds: tuple[int, ...] | None = Field(None, min_length=1, description="folds to run; null = all")
    methods: dict[str, MethodConfig] = Field(min_length=1)
    protocols: tuple[Protocol, ...] = Field(("transductive",), min_length=1)
    scenarios: tuple[Scenario, ...] = Field(("balanced",), min_length=1, description="of the data that adapts")
    streaming: StreamingConfig = Field(StreamingConfig(), description="for protocol streaming")
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    federation: FederationConfig = FederationConfig()

    @model_validator(mode="after")
    def _one_source(self) -> Experiment:
        if (self.store is None) == (self.synthetic is None):
            raise ValueError("give either store (a folder of recordings) or synthetic (a cohort to make), not both")
        if len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError("seeds must be different and not negative")
        if len(set(self.protocols)) != len(self.protocols):
            raise ValueError("a protocol is listed twice")
        if len(set(self.scenarios)) != len(self.scenarios):
            raise ValueError("a scenario is listed twice")
        return self

    @model_validator(mode="after")
    def _known_folds(self) -> Experiment:
        unknown = sorted(set(self.only_folds or ()) - set(range(self.folds.count)))
        if unknown:
            raise ValueError(f"only_folds names fold {unknown[0]}; folds are 0 to {self.folds.count - 1}")
        return self

    @model_validator(mode="after")
    def _methods_mean_something(self) -> Experiment:
        idle = [name for name, config in self.methods.items() if isinstance(config, AdaBnConfig)]
        if idle and self.backbone.norm == "ln":
            raise ValueError(
                f"method '{idle[0]}' re-estimates BatchNorm, which this backbone has none of: leave it out"
            )
        return self


def load_experiment(name: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Resolve an experiment: its YAML, the method and backbone files it names, then ``key.sub=value`` overrides.

    Methods and backbone may be names (``methods: [adabn, emgup_paper]``) or written out, and a method may be a variant
    of a named one (``methods: {ssa_only: {extends: emgup_paper, ssp: {epochs: 0}}}``, docs/ablations.md); after
    resolution all look the same, so ``methods.emgup_paper.ssa.epochs=10`` and ``backbone.width=32`` work either way.

    Raises:
        ConfigError: no such file, or a key or value the models refuse.
    """
    path = find_config("experiments", name)
    data = load_yaml(path)
    lists = [o for o in overrides if o.split("=")[0].strip() in {"methods", "backbone"}]
    data = _resolve_names(apply_overrides(data, lists), str(path))
    data = apply_overrides(data, [o for o in overrides if o not in lists])
    where = str(path) + (f" with {' '.join(overrides)}" if overrides else "")
    return parse(Experiment, data, where)


def _resolve_names(data: dict[str, Any], where: str) -> dict[str, Any]:
    if isinstance(data.get("backbone"), str):
        data["backbone"] = load_yaml(find_config("backbones", data["backbone"]))
    methods = data.get("methods")
    if isinstance(methods, list):
        if not all(isinstance(m, str) for m in methods) or len(set(methods)) != len(methods):
            raise ConfigError(f"{where}: methods must be a list of different names, or a mapping of name to settings")
        data["methods"] = {Path(m).stem: load_yaml(find_config("methods", m)) for m in methods}
    elif isinstance(methods, dict):
        data["methods"] = {name: _extended(entry, f"{where}: methods.{name}") for name, entry in methods.items()}
    return data


def _extended(entry: Any, where: str) -> Any:
    """A method's entry with its ``extends`` replaced by the settings of that method file, its own settings on top."""
    if not isinstance(entry, dict) or "extends" not in entry:
        return entry
    name = entry["extends"]
    if not isinstance(name, str):
        raise ConfigError(f"{where}.extends must be the name of a method or the path of its .yaml file")
    try:
        base = load_yaml(find_config("methods", name))
    except ConfigError as e:
        raise ConfigError(f"{where}.extends: {e}") from None
    return _merged(base, {key: value for key, value in entry.items() if key != "extends"})


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Copy of ``base`` with ``changes`` on top; mappings are merged key by key, anything else is replaced."""
    out = dict(base)
    for key, value in changes.items():
        below = out.get(key)
        out[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return out


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what. Everything below ``client_home`` is private to the simulated clients."""

    path: Path
    config: Path | None = None
    """Where the resolved config is, if not at its usual place."""

    @property
    def busy(self) -> RunError:
        """What is raised where another process works in the folder."""
        return RunError(f"another run is using {self.path}; wait for it, or choose another --out")

    @property
    def experiment(self) -> Path:
        """Resolved config."""
        return self.config or self.path / "experiment.yaml"

    @property
    def folds(self) -> Path:
        """The saved split."""
        return self.path / "folds.json"

    @property
    def cohort(self) -> Path:
        """Store of the synthetic cohort, if the experiment makes one."""
        return self.path / "cohort"

    @property
    def pretrain(self) -> Path:
        """Training states of the folds."""
        return self.path / "pretrain"

    @property
    def releases(self) -> Path:
        """Signed source releases, one folder per fold."""
        return self.path / "releases"

    @property
    def signing_key(self) -> Path:
        """The server's release-signing key."""
        return self.path / "server" / "release_key.pem"

    @property
    def cells(self) -> Path:
        """The result ledger: one file per cell."""
        return self.path / "cells"

    @property
    def transcript(self) -> Path:
        """What the server received, byte for byte."""
        return self.path / "transcript.jsonl"

    @property
    def client_home(self) -> Path:
        """Home of the simulated clients: trusted keys, release cache, private vault."""
        return self.path / "client"

    @property
    def results(self) -> Path:
        """One row per cell."""
        return self.path / "results.csv"

    @property
    def draws(self) -> Path:
        """How many windows of each gesture every cell adapted on."""
        return self.path / "draws.csv"

    @property
    def summary(self) -> Path:
        """Statistics over users."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """Self-contained HTML report."""
        return self.path / "report.html"


def default_run_folder(experiment: Experiment, out: str | Path | None) -> RunFolder:
    """``out``, or ``runs/<experiment name>`` below the working directory; absolute."""
    return RunFolder(Path(out or Path("runs") / experiment.name).expanduser().resolve())


def store_path(experiment: Experiment, run: RunFolder) -> Path:
    """Where the experiment's recordings are, or will be made: its store, or a cohort inside the run folder."""
    if experiment.synthetic is not None:
        return run.cohort / digest(experiment.synthetic)[:12]
    return Path(str(experiment.store)).expanduser().resolve()
