"""``python -m emgup_simulation.latency_worker RATE CHANNELS WINDOW DECISIONS``: latencies of live decisions, as JSON.

The process keeps to one core and one thread. The signal is noise and the ``cnn`` untrained: what a decision costs
depends on neither. Samples come one hop at a time, the last of them completing a window. As in live use the process
sleeps between hops (10 ms instead of 100, to be done sooner): one that never sleeps has its time slice cut by whatever
else runs. Wall time is what a user waits for; CPU time of this process tells what of it the machine's other work took.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emgup_client.live.decisions import Decider
from emgup_client.live.latency import Latency
from emgup_model.backbones import CnnConfig, build_backbone
from emgup_model.data.windows import PreprocessingConfig, WindowConfig
from emgup_model.keys import public_key
from emgup_model.release import Release, Training, open_release, sign_release

WARM_UP = 50
HOP_S = 0.1
PAUSE_S = 0.01


def release(rate: float, channels: int, window: int) -> Release:
    """A release of an untrained ``cnn`` with the shipped settings for that device."""
    key, config = Ed25519PrivateKey.generate(), CnnConfig()
    fields: dict[str, object] = {
        "dataset": "noise",
        "fold": 0,
        "backbone": config,
        "windows": WindowConfig(length=window, hop=round(HOP_S * rate), sequence_length=20),
        "preprocessing": PreprocessingConfig(),
        "scale": 1.0,
        "sampling_rate_hz": rate,
        "channels": channels,
        "unit": "adc",
        "gestures": tuple(f"g{i}" for i in range(7)),
        "training": Training(epochs=0, best_epoch=0, validation_accuracy=0, train_users=0, config_sha256=""),
    }
    return open_release(sign_release(build_backbone(config, channels, 7), fields, key), [public_key(key)])


def main(argv: list[str]) -> None:
    """Measure and print."""
    rate, channels, window, decisions = float(argv[0]), int(argv[1]), int(argv[2]), int(argv[3])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    made = release(rate, channels, window)
    decider, hop = Decider(made.model, made.manifest), made.manifest.windows.hop
    rng = np.random.default_rng(0)
    list(decider.push(rng.standard_normal((window - hop, channels))))
    wall, cpu = [], []
    for _ in range(WARM_UP + decisions):
        samples = rng.standard_normal((hop, channels))
        time.sleep(PAUSE_S)
        began, used = time.perf_counter(), time.process_time()
        made_now = list(decider.push(samples))
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
        assert len(made_now) == 1
    found = {"wall": Latency.of(wall[WARM_UP:]), "cpu": Latency.of(cpu[WARM_UP:])}
    print(json.dumps({k: v.rounded() for k, v in found.items() if v}))


if __name__ == "__main__":
    main(sys.argv[1:])
