"""``python -m emgup_simulation.backbone_worker SPEC``: time and memory of training steps, through one of two loops.

SPEC is JSON: backbone, overrides, batch, steps, device, compute, and loop. ``project`` is what source training does
(windows cut from the signal at random places, precision, micro-batches, gradient clipping, schedule); ``bare`` is the
same network in the plainest PyTorch loop over ready batches. Prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from emgup_model.backbones import Backbone, build_backbone
from emgup_model.backbones.describe import Shape
from emgup_model.compute import ComputeConfig, resolve_device
from emgup_model.config import parse
from emgup_model.data.windows import WindowedUser
from emgup_model.pretrain import PretrainConfig, train_epoch
from emgup_model.source_users import LabelledUser, WindowSampler
from emgup_simulation.model_cli import read_backbone

ROUNDS = 3
"""Timed rounds after one that warms up; the fastest counts."""


def noise(shape: Shape, windows: int) -> LabelledUser:
    """A source user of ``windows`` windows of noise, in one recording, with random gestures."""
    samples = shape.window * windows
    labels = torch.randint(shape.classes, (windows,), generator=torch.Generator().manual_seed(0)).numpy()
    starts, zero = torch.arange(windows) * shape.window, torch.zeros(windows, dtype=torch.int64)
    signal = torch.randn(shape.channels, samples, generator=torch.Generator().manual_seed(0))
    user = WindowedUser(signal, starts, zero, torch.arange(windows), ("r",), shape.window)
    return LabelledUser(user, labels, np.repeat(labels, shape.window), (samples,), "noise")


def project_round(model: Backbone, user: LabelledUser, batch: int, compute: ComputeConfig) -> Callable[[], object]:
    """One epoch of source training, as ``train_source`` makes it."""
    config = PretrainConfig(batch_windows=batch)
    sampler = WindowSampler([user], user.windows.window, None)
    network = torch.compile(model) if compute.compile else model
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=10_000)
    generator = torch.Generator().manual_seed(0)
    return lambda: train_epoch(model, network, sampler, optimiser, schedule, generator, config, compute.micro_batch)


def bare_round(model: Backbone, user: LabelledUser, batch: int) -> Callable[[], object]:
    """Forward, backward and optimiser step over batches that are ready in memory."""
    place = next(model.parameters()).device
    x, y = user.windows.batch(), torch.from_numpy(user.labels)
    pairs = zip(torch.split(x, batch), torch.split(y, batch), strict=True)
    ready = [(some.contiguous().to(place), gestures.to(place)) for some, gestures in pairs]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def once() -> None:
        model.train()
        for x, y in ready:
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    return once


def measured(once: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest round: of this process's CPU time, or of wall time where the work is elsewhere."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times = []
    for _ in range(ROUNDS + 1):
        started = clock()
        once()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - started)
    return min(times[1:])


def main(argv: list[str]) -> None:
    """Measure one loop on one thread."""
    spec: dict[str, Any] = json.loads(argv[0])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config, shape = read_backbone(spec["backbone"], spec["overrides"])
    compute = parse(ComputeConfig, spec["compute"], "compute")
    device = resolve_device(spec["device"])
    model = build_backbone(config, shape.channels, shape.classes).to(device)
    model.precision = compute.precision
    user = noise(shape, spec["batch"] * spec["steps"])
    bare = spec["loop"] == "bare"
    once = bare_round(model, user, spec["batch"]) if bare else project_round(model, user, spec["batch"], compute)
    seconds = measured(once, device)
    peak = (
        torch.cuda.max_memory_allocated(device) / 2**20
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    print(json.dumps({"ms_per_window": 1000 * seconds / len(user.windows), "peak_mib": peak}))


if __name__ == "__main__":
    main(sys.argv[1:])
