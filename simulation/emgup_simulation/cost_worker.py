"""``python -m emgup_simulation.cost_worker METHOD SECONDS``: CPU seconds and peak memory of one adaptation, as JSON.

The windows are noise in recordings of 5 s at 200 Hz × 8 channels, as long in all as asked for, and the ``cnn`` is
untrained: what an adaptation costs depends on neither. The safety decision does depend on the data, so it is made to
let both stages run, which is the most that ``emgup`` ever does.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import torch

from emgup_model.backbones import CnnConfig, build_backbone
from emgup_model.data.windows import WindowConfig, WindowedUser
from emgup_model.methods import EmgupConfig, MethodConfig, Target, adapt, load_method
from emgup_model.signal_statistics import FEWEST_PEOPLE, measure

CHANNELS, CLASSES, RATE_HZ, RECORDING_S = 8, 7, 200, 5


def noise(seconds: int, grid: WindowConfig) -> WindowedUser:
    """A user of ``seconds`` of noise, in recordings of 5 s."""
    recordings, samples = seconds // RECORDING_S, RECORDING_S * RATE_HZ
    position = torch.arange((samples - grid.length) // grid.hop + 1)
    recording = torch.arange(recordings).repeat_interleave(len(position))
    position = position.repeat(recordings)
    signal = torch.randn(CHANNELS, recordings * samples, generator=torch.Generator().manual_seed(0))
    names = tuple(f"r{i}" for i in range(recordings))
    return WindowedUser(signal, recording * samples + position * grid.hop, recording, position, names, grid.length)


def all_the_way(config: MethodConfig) -> MethodConfig:
    """The method with a safety decision that always lets both stages run."""
    if not isinstance(config, EmgupConfig) or config.safety is None:
        return config
    return config.model_copy(update={"safety": config.safety.model_copy(update={"seen_probability": 0.0})})


def main(argv: list[str]) -> None:
    """Adapt once on one thread."""
    method, seconds = argv[0], int(argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    grid = WindowConfig()
    model = build_backbone(CnnConfig(), CHANNELS, CLASSES).eval()
    drawn = noise(RECORDING_S, grid)
    statistics = measure([(drawn, np.arange(len(drawn)) % CLASSES)] * FEWEST_PEOPLE, CLASSES)
    target = Target(noise(seconds, grid), grid.sequence_length, True, statistics)
    config = all_the_way(load_method(method))
    started = time.process_time()
    adapt(model, target, config, 0)
    cost = {
        "windows": len(target.windows),
        "cpu_seconds": time.process_time() - started,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main(sys.argv[1:])
