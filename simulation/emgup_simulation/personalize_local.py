"""`emgup personalize`: what a client does for one user, without a server and without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from safetensors.torch import save as save_safetensors

from emgup_client.vault import EVALUATION, WEIGHTS, private_dir, write_private
from emgup_model.config import canonical_json
from emgup_model.data.store import read_info
from emgup_model.errors import ConfigError
from emgup_model.evaluation.protocols import Protocol
from emgup_model.evaluation.scenarios import SCENARIOS
from emgup_model.evaluation.streaming import StreamingConfig
from emgup_model.keys import read_trusted
from emgup_model.methods import load_method
from emgup_model.personalize import personalize
from emgup_model.release import load_release, state_tensors
from emgup_model.task import Task


def personalize_local(
    console: Console,
    release_folder: Path,
    recording: Path,
    vault: Path,
    trusted: Path,
    method_name: str,
    protocol: str,
    scenario: str,
    seed: int,
    device: str,
) -> None:
    """Verify the release, adapt, save the weights privately, print what changed.

    Raises:
        EmgupError: anything the user can fix; nothing is written then.
    """
    _check_choice("protocol", protocol, get_args(Protocol))
    _check_choice("scenario", scenario, SCENARIOS)
    method = load_method(method_name)
    streaming = StreamingConfig() if protocol == "streaming" else None
    task = Task(method, protocol, scenario, seed, streaming)  # type: ignore[arg-type]
    release = load_release(release_folder, read_trusted(trusted))
    with console.status("adapting"):
        result = personalize(recording, release, task, device)
    name = "-".join([release.id[:12], Path(method_name).stem, protocol, scenario, str(seed)])
    folder = private_dir(vault / read_info(recording).user / name)
    write_private(folder / WEIGHTS, save_safetensors(state_tensors(result.adaptation.model)))
    scores = result.evaluation
    kept = {
        "release": release.id,
        "method": method.model_dump(mode="json"),
        "protocol": protocol,
        "scenario": scenario,
        "seed": seed,
        "log": result.adaptation.log,
        "adapt_seconds": result.adaptation.seconds,
        "predictions_changed": result.predictions_changed,
        "confusion_before": scores.confusion_before.tolist() if scores else None,
        "confusion_after": scores.confusion_after.tolist() if scores else None,
    }
    write_private(folder / EVALUATION, canonical_json(kept))
    changed = 100 * result.predictions_changed
    console.print(f"adapted in {result.adaptation.seconds:.1f} s; {changed:.1f} % of the decisions changed")
    if scores:
        console.print(
            f"accuracy {100 * scores.source_accuracy:.1f} % before, {100 * scores.accuracy:.1f} % after "
            f"({scores.n_windows} test windows; labels were opened after adaptation only)"
        )
    console.print(f"weights: {folder / WEIGHTS}", soft_wrap=True, highlight=False)


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {what} '{value}'; choose one of {', '.join(known)}")
