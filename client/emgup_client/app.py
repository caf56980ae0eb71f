"""The ClientApp: holds releases, adapts one to its user's own recordings, keeps the result, reports a few integers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from emgup_client.egress.policy import EgressPolicy
from emgup_client.egress.record import build_levels
from emgup_client.exporter import exporter
from emgup_client.fallback import or_on_the_cpu
from emgup_client.releases import ReleaseCache
from emgup_client.vault import EVALUATION, MAX_ATTEMPTS, VaultCell, locked_cell, private_dir
from emgup_model.backbones import Precision
from emgup_model.config import parse
from emgup_model.errors import ConfigError
from emgup_model.evaluation.streaming import StreamingConfig
from emgup_model.methods import MethodConfig, parse_method
from emgup_model.methods.base import copy_model
from emgup_model.personalize import Adaptation, Known, Personalization, personalize
from emgup_model.release import Release, ReleaseFiles, state_tensors
from emgup_model.task import Task
from emgup_model.wire import (
    DELIVER,
    OFFER,
    REPLY,
    REQUEST,
    Deliver,
    Offer,
    Personalize,
    Reply,
    Result,
    Status,
    WireError,
    decode_request,
    to_parts,
)


@dataclass(frozen=True)
class Subject:
    """The user a client personalizes for: name of the vault folder, and recording file."""

    name: str
    recordings: Path


@dataclass(frozen=True)
class ClientSettings:
    """What a client decides for itself; no message can change it.

    Attributes:
        home: private folder for releases, vault and log.
        trusted_keys: file with the public keys whose releases are accepted.
        subject: from the user that a request names (None outside simulations) to the client's own idea of who that
            is. Raises DataError for a user that the client does not play.
        device: torch device to adapt on, or ``auto``; where it fails, the CPU.
        precision: of the backbone's arithmetic.
        threads: threads torch may use; None leaves torch's own choice.
        allowed: raises ConfigError for a method, by name and settings, that the client does not run.
        policy: of a deployed client: what its user lets it report. None in simulations, which report exact numbers.
    """

    home: Path
    trusted_keys: Path
    subject: Callable[[str | None], Subject]
    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int | None = None
    allowed: Callable[[str, MethodConfig], None] = lambda name, method: None
    policy: EgressPolicy | None = None


def make_app(settings_from_context: Callable[[Context], ClientSettings]) -> ClientApp:
    """The ClientApp of a client whose settings come from ``settings_from_context``."""
    app = ClientApp(mods=[exporter(lambda context: settings_from_context(context).home)])

    @app.query(OFFER)
    def offer(message: Message, context: Context) -> Message:
        request = decode_request(Offer, _request(message))
        held = _cache(settings_from_context(context)).holds(request.release_id)
        return _answer(Reply(status=Status.HAVE_RELEASE if held else Status.NEEDS_RELEASE), message)

    @app.query(DELIVER)
    def deliver(message: Message, context: Context) -> Message:
        request = decode_request(Deliver, _request(message))
        files = ReleaseFiles(request.manifest, request.signature, request.weights)
        _cache(settings_from_context(context)).add(files)
        return _answer(Reply(status=Status.HAVE_RELEASE), message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        request = decode_request(Personalize, _request(message))
        settings = settings_from_context(context)
        reply = personalize_once(request, settings)
        return _answer(reply if settings.policy is None else report(reply, request, settings), message)

    return app


def personalize_once(request: Personalize, settings: ClientSettings) -> Reply:
    """Adapt, save to the vault, reply; a cell that the vault already holds is answered from there.

    Where another cell of the user was adapted in the same way (it differs in its test windows), its weights are used.

    Raises:
        ReleaseError, ConfigError, DataError, OSError: the cell is not saved, and what the attempt left is removed.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    subject = settings.subject(request.user)
    with locked_cell(settings.home, subject.name, request.cell) as cell:
        if (known := cell.reply()) is not None:
            return known
        if cell.begin() >= MAX_ATTEMPTS:
            cell.end()
            return Reply(status=Status.CRASHED)
        try:
            release = _cache(settings).open(request.release_id)
            method = parse_method(_json(request.method), "the requested method")
            settings.allowed(request.method_name, method)
            task = Task(method, request.protocol, request.scenario, request.seed, _streaming(request))
            before, precision = _known(cell, release), settings.precision
            outcome = or_on_the_cpu(
                settings.device,
                lambda device: personalize(subject.recordings, release, task, device, before, precision, cell),
            )
            reply = reply_of(outcome)
            evaluation = _evaluation(outcome, request, subject.name, release.manifest.dataset)
            cell.commit(save_safetensors(state_tensors(outcome.adaptation.model)), evaluation, reply, outcome.key)
            return reply
        finally:
            cell.end()


def _streaming(request: Personalize) -> StreamingConfig | None:
    if request.streaming is None:
        return None
    return parse(StreamingConfig, _json(request.streaming), "the requested streaming")


def _known(cell: VaultCell, release: Release) -> Known:
    """The adaptations of the user's other cells; what does not fit the release is not known."""

    def look(key: str) -> Adaptation | None:
        if (found := cell.sibling(key)) is None:
            return None
        model = copy_model(release.model)
        try:
            model.load_state_dict(load_safetensors(found.weights))
            said = found.evaluation
            return Adaptation(model, said["log"], said["adapt_seconds"], said["device"])
        except (SafetensorError, RuntimeError, KeyError):
            return None

    return look


def reply_of(outcome: Personalization) -> Reply:
    """What is said about an outcome: a status, and where there are scores, six bounded integers with it."""
    e = outcome.evaluation
    if e is None:
        return Reply(status=Status.NOT_EVALUATED)
    return Reply(
        status=Status.OK,
        result=Result(
            accuracy=to_parts(e.accuracy),
            macro_f1=to_parts(e.macro_f1),
            source_accuracy=to_parts(e.source_accuracy),
            source_macro_f1=to_parts(e.source_macro_f1),
            n_windows=e.n_windows,
            adapt_ms=round(outcome.adaptation.seconds * 1000),
        ),
    )


def report(reply: Reply, request: Personalize, settings: ClientSettings) -> Reply:
    """What the user's policy makes of a reply: coarse levels in place of exact numbers; failures as they are.

    The noise is not in here: the gate adds it, on what it lets pass.
    """
    if settings.policy is None or reply.status not in (Status.OK, Status.NOT_EVALUATED):
        return reply
    with locked_cell(settings.home, settings.subject(request.user).name, request.cell) as cell:
        evaluation = json.loads(cell.read(EVALUATION))
    return Reply(status=Status.REPORTED, report=build_levels(settings.policy, evaluation))


def _evaluation(outcome: Personalization, request: Personalize, user: str, dataset: str) -> dict[str, Any]:
    """What the vault keeps beside the weights: what was done to whom, the method's log, every number of the scores."""
    scores: dict[str, Any] = dataclasses.asdict(outcome.evaluation) if outcome.evaluation else {}
    for name in ("confusion_before", "confusion_after"):
        if name in scores:
            scores[name] = scores[name].tolist()
    return {
        "dataset": dataset,
        "user": user,
        "method": request.method_name,
        "config": _json(request.method),
        "protocol": request.protocol,
        "scenario": request.scenario,
        "streaming": _json(request.streaming) if request.streaming else None,
        "seed": request.seed,
        "release_id": request.release_id,
        "adapt_seconds": outcome.adaptation.seconds,
        "device": outcome.adaptation.device,
        "predictions_changed": outcome.predictions_changed,
        "mean_confidence": outcome.mean_confidence,
        "test_windows": outcome.test_windows,
        "confidence_percentiles": list(outcome.confidence_percentiles),
        **scores,
        "unscored": outcome.unscored,
        "log": outcome.adaptation.log,
    }


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError("a requested setting is not valid JSON") from None


def _cache(settings: ClientSettings) -> ReleaseCache:
    return ReleaseCache(private_dir(settings.home), settings.trusted_keys)


def _request(message: Message) -> ConfigRecord:
    record = message.content.get(REQUEST)
    if set(message.content) != {REQUEST} or not isinstance(record, ConfigRecord):
        raise WireError(f"a message carries one config record '{REQUEST}'")
    return record


def _answer(reply: Reply, message: Message) -> Message:
    return Message(RecordDict({REPLY: MetricRecord(dict(reply.encode()))}), reply_to=message)
