"""The `emgup` command. An error the user can fix is one line on stderr and exit status 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from emgup_model.errors import ConfigError, EmgupError
from emgup_server.deployment.cli import server
from emgup_simulation.client_cli import client
from emgup_simulation.data_cli import app as data_app
from emgup_simulation.model_cli import app as model_app

app = typer.Typer(
    help="EMG-UP: federated, unsupervised personalization of surface-EMG gesture recognition.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench_app = typer.Typer(help="Measure speed and memory.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(model_app, name="model")
app.add_typer(server, name="server")
app.add_typer(client, name="client")

PIPED_WIDTH = 120
"""Columns when the output is not a terminal, whose own width would be guessed as 80."""


def new_console() -> Console:
    """Console for standard output."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


ExperimentArg = Annotated[str, typer.Argument(help="an experiment's YAML file, or the name of a shipped one")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value …", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="run folder; default runs/<experiment name>")]
Replace = Annotated[bool, typer.Option("--replace", help="rewrite the results of another experiment in the folder")]


@app.command()
def simulate(
    experiment: ExperimentArg = "default", overrides: Overrides = None, out: Out = None, replace: Replace = False
) -> None:
    """Personalize every test user of every fold through Flower; a second run does only what is missing."""
    from emgup_simulation.experiment import default_run_folder, load_experiment
    from emgup_simulation.simulate import simulate as run_simulation

    config = load_experiment(experiment, overrides or [])
    raise typer.Exit(run_simulation(config, default_run_folder(config, out), new_console(), replace))


@app.command()
def pretrain(
    experiment: ExperimentArg = "default", overrides: Overrides = None, out: Out = None, replace: Replace = False
) -> None:
    """Split the users and train a signed release per fold and source seed; stopped training goes on."""
    from emgup_simulation.experiment import default_run_folder, load_experiment
    from emgup_simulation.prepare import prepare
    from emgup_simulation.same_run import check_same

    console = new_console()
    config = load_experiment(experiment, overrides or [])
    run = default_run_folder(config, out)
    check_same(config, run.path, replace)
    prepared = prepare(config, run, console)
    for (fold, source_seed), folder in sorted(prepared.releases.items()):
        console.print(f"fold {fold}, source seed {source_seed}: {folder}", soft_wrap=True, highlight=False)


@app.command()
def tune(
    experiment: ExperimentArg = "default",
    overrides: Overrides = None,
    folds: Annotated[str | None, typer.Option(help="0,1,…; default the first half", show_default=False)] = None,
    out: Out = None,
    turned: Annotated[int, typer.Option(help="plant: electrodes by which every armband is turned")] = 0,
    gain_log_sd: Annotated[float, typer.Option(min=0, max=2, help="plant: log SD of one gain per channel")] = 0.0,
    replace: Replace = False,
) -> None:
    """Rank an experiment's methods on validation users of its source side; test users have no part in it."""
    from emgup_model.config import parse
    from emgup_model.evaluation.disturbance import Disturbance
    from emgup_simulation.experiment import default_run_folder, load_experiment
    from emgup_simulation.tune import tune as run_tune
    from emgup_simulation.tune_plan import parse_folds

    config = load_experiment(experiment, overrides or [])
    chosen = parse_folds(folds, config.folds.count)
    planted = parse(Disturbance, {"turned": turned, "gain_log_sd": gain_log_sd}, "--turned, --gain-log-sd")
    raise typer.Exit(run_tune(config, default_run_folder(config, out), chosen, new_console(), planted, replace))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="run folder")],
    markdown: Annotated[Path | None, typer.Option(help="also write the table as Markdown to this file")] = None,
    users_except: Annotated[
        str | None, typer.Option(help="table without these users: a,b,… or a file with one per line; writes no report")
    ] = None,
) -> None:
    """Print a run's table again and rewrite its summary and HTML report."""
    from emgup_simulation.report_cli import report as write

    write(run, markdown, new_console(), users_except)


@bench_app.command()
def overhead(experiment: ExperimentArg = "default", overrides: Overrides = None, out: Out = None) -> None:
    """Federated wall time and memory against a bare in-process loop doing the same adaptations, in one run."""
    from emgup_simulation.bench import overhead as measure
    from emgup_simulation.experiment import default_run_folder, load_experiment

    config = load_experiment(experiment, overrides or [])
    measure(config, default_run_folder(config, out), new_console())


@bench_app.command()
def cost(
    methods: Annotated[list[str] | None, typer.Argument(help="methods; default emgup and shot_frozen")] = None,
    seconds: Annotated[str, typer.Option(help="lengths of the recording, s")] = "35,70,140,280,560",
    out: Annotated[Path, typer.Option(help="JSON file to write")] = Path("runs/bench/cost.json"),
) -> None:
    """CPU seconds and memory of one user's adaptation, on one thread, over the length of the recording."""
    from emgup_simulation.bench_cost import cost as measure

    try:
        lengths = [int(s) for s in seconds.split(",")]
    except ValueError:
        raise ConfigError(f"--seconds takes whole numbers with commas between, not '{seconds}'") from None
    measure(methods or ["emgup", "shot_frozen"], lengths, out, new_console())


@bench_app.command("import")
def import_(
    raw: Annotated[Path, typer.Option(help="folder with the dataset's files; only read")],
    dataset: Annotated[str, typer.Option(help="a shipped descriptor's name, or a YAML file")] = "emg2pose",
    out: Annotated[Path, typer.Option(help="JSON file to write")] = Path("runs/bench/import.json"),
    overrides: Overrides = None,
) -> None:
    """Rate and peak memory of an import, in a process of its own, into a store that is deleted afterwards."""
    from emgup_simulation.bench_import import bench_import

    bench_import(dataset, raw, overrides or [], out, new_console())


@bench_app.command()
def backbones(
    names: Annotated[list[str] | None, typer.Argument(help="backbones; default all shipped ones")] = None,
    batch: Annotated[int, typer.Option(min=2, help="windows in a batch")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="batches in a timed round")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "cpu",
    compute: Annotated[list[str] | None, typer.Option(help="precision=bf16, micro_batch=N, compile=true")] = None,
    out: Annotated[Path, typer.Option(help="JSON file to write")] = Path("runs/bench/backbones.json"),
) -> None:
    """Source training of each backbone against a bare PyTorch loop over the same network: time and memory."""
    from emgup_model.compute import ComputeConfig
    from emgup_model.config import apply_overrides, configs_dir, parse
    from emgup_simulation.bench_backbones import backbones as measure

    shipped = sorted(p.stem for p in (configs_dir() / "backbones").glob("*.yaml"))
    settings = parse(ComputeConfig, apply_overrides({}, compute or ()), "--compute")
    measure(names or shipped, batch, steps, device, settings, out, new_console())


@bench_app.command()
def latency(
    decisions: Annotated[int, typer.Option(min=100, help="decisions to time for each device")] = 3000,
    out: Annotated[Path, typer.Option(help="JSON file to write")] = Path("runs/bench/latency.json"),
) -> None:
    """From the last sample of a window to its decision, on one CPU core; exit status 1 if p99 reaches 10 ms."""
    from emgup_simulation.bench_latency import latency as measure

    raise typer.Exit(0 if measure(decisions, out, new_console()) else 1)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except EmgupError as e:
        print(f"emgup: {e}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
