"""Windows of the toy gestures, a small model trained on them, and a short version of the default method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from emgup_model.augmentation import rotate
from emgup_model.backbones import Backbone, CnnConfig, build_backbone
from emgup_model.data.store import Recording
from emgup_model.data.windows import WindowedUser
from emgup_model.methods import EmgupConfig, Target, load_method
from emgup_model.signal_statistics import SignalStatistics, measure
from tests.toy import GESTURES, toy_recordings

LENGTH, HOP, L = 20, 10, 8
CHANNELS, CLASSES = 4, len(GESTURES)


def grid(*lengths: int) -> WindowedUser:
    """Recordings of so many windows each, with no signal worth reading."""
    recording = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    position = torch.cat([torch.arange(n) for n in lengths])
    return WindowedUser(
        torch.zeros(1, len(recording)), torch.arange(len(recording)), recording, position, ("r",) * len(lengths), 1
    )


def toy_user(
    seed: int = 7, gains: Sequence[float] = (1, 1, 1, 1), turned: float = 0, without: Sequence[int] = ()
) -> tuple[WindowedUser, torch.Tensor]:
    """Windows of a new toy user, and their gestures (N,).

    Args:
        seed: of the signal.
        gains: one per channel.
        turned: electrodes by which the armband is turned, as in :func:`rotate`.
        without: gestures that are not recorded.
    """
    recordings = [r for r in toy_recordings(seed) if r.label not in without]
    signal = torch.cat([torch.from_numpy(r.emg.T) for r in recordings], 1) / 10
    signal = rotate(signal[None], torch.tensor([float(turned)]))[0] * torch.tensor(gains).unsqueeze(1)
    return _cut(recordings, signal)


def _cut(recordings: list[Recording], signal: torch.Tensor) -> tuple[WindowedUser, torch.Tensor]:
    starts, recording, position, offset = [], [], [], 0
    for i, r in enumerate(recordings):
        n = (len(r.emg) - LENGTH) // HOP + 1
        starts.append(offset + HOP * torch.arange(n))
        recording.append(torch.full((n,), i))
        position.append(torch.arange(n))
        offset += len(r.emg)
    names = tuple(r.name for r in recordings)
    of = torch.cat(recording)
    gestures = torch.tensor([int(r.label) for r in recordings])[of]  # type: ignore[arg-type]
    return WindowedUser(signal, torch.cat(starts), of, torch.cat(position), names, LENGTH), gestures


def train_toy_model() -> Backbone:
    """A model that knows the toy gestures of two source users; a fraction of a second."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_backbone(CnnConfig(width=8, embedding_dim=8), CHANNELS, CLASSES)
        users = [toy_user(seed) for seed in (0, 1)]
        x, y = torch.cat([u.batch() for u, _ in users]), torch.cat([y for _, y in users])
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(40):
            index = torch.randint(0, len(x), (64,))
            optimiser.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()


def short_emgup(**changes: Any) -> EmgupConfig:
    """The shipped default method with few epochs."""
    config = load_method("emgup")
    assert isinstance(config, EmgupConfig)
    assert config.safety is not None
    assert config.replay is not None
    brief = {"epochs": 2}
    stages: dict[str, Any] = {
        "replay": config.replay.model_copy(update={**brief, "per_gesture": 50, "batch_windows": 32}),
        "ssa": config.ssa.model_copy(update=brief),
        "ssp": config.ssp.model_copy(update=brief),
    }
    return config.model_copy(update=stages | changes)


def toy_statistics() -> SignalStatistics:
    """Of the source users of :func:`train_toy_model`, and a third: of fewer nothing is measured."""
    return measure([(windows, labels.numpy()) for windows, labels in map(toy_user, (0, 1, 2))], CLASSES)


def toy_target(without: Sequence[int] = (), turned: float = 0, ring: bool = True) -> Target:
    """A new user, with what the release says of the source users' signals."""
    return Target(toy_user(turned=turned, without=without)[0], L, ring, toy_statistics())


def weights(model: Backbone) -> dict[str, torch.Tensor]:
    """Independent copy of everything in the state dict."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are not bit-identical."""
    assert a.keys() == b.keys()
    return {k for k in a if not torch.equal(a[k], b[k])}
