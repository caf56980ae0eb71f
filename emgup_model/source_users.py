"""Labelled source users, and the windows drawn from them for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from emgup_model.data.labels import read_labels
from emgup_model.data.store import Store
from emgup_model.data.windows import (
    UNLABELLED,
    PreprocessingConfig,
    WindowConfig,
    WindowedUser,
    load_windows,
    majority,
    window_labels,
)
from emgup_model.errors import DataError


@dataclass(frozen=True)
class LabelledUser:
    """A source user: windows, their gesture indices (N,) or UNLABELLED, and the gesture of every sample (T_total,)."""

    windows: WindowedUser
    labels: np.ndarray
    sample_labels: np.ndarray
    lengths: tuple[int, ...]


def load_labelled(
    store: Store, user: str, windows: WindowConfig, preprocessing: PreprocessingConfig, sessions: str = "first"
) -> LabelledUser:
    """Windows and labels of a source user, unscaled.

    Raises:
        DataError: the user's recordings show fewer than two gestures.
    """
    with store.open(user) as file:
        first = min(r.session for r in file.recordings)
        chosen = [r for r in file.recordings if sessions == "all" or r.session == first]
        grid = load_windows(file, windows, preprocessing, 1.0, [r.name for r in chosen])
        lengths = tuple(r.n_samples for r in chosen)
    labels = read_labels(store.path(user))
    if nameless := [n for n in grid.names if n not in labels]:
        raise DataError(f"user '{user}': recording '{nameless[0]}' has no label; source training needs every one's")
    per_window = window_labels(labels, grid, lengths)
    if len(np.unique(per_window[per_window != UNLABELLED])) < 2:
        raise DataError(
            f"user '{user}' has windows of one gesture only; training and evaluation need at least two: drop the user"
        )
    per_sample = [np.broadcast_to(labels[n], (t,)) for n, t in zip(grid.names, lengths, strict=True)]
    return LabelledUser(grid, per_window, np.concatenate(per_sample).astype(np.int64), lengths)


def amplitude_constant(users: Sequence[LabelledUser]) -> float:
    """Root mean square of the filtered signals, averaged over users with equal weight."""
    scale = float(np.mean([float(u.windows.signal.square().mean().sqrt()) for u in users]))
    if not scale > 0:
        raise DataError("the source users' signals are all zero; check the import")
    return scale


def rescale(user: LabelledUser, scale: float) -> LabelledUser:
    """The same user with the signal divided by ``scale``."""
    return replace(user, windows=replace(user.windows, signal=user.windows.signal / scale))


class WindowSampler:
    """Draws training windows at random positions of random recordings; a window's gesture is most of its samples'."""

    def __init__(self, users: Sequence[LabelledUser], window: int, per_recording: int | None) -> None:
        self.signal = torch.cat([u.windows.signal for u in users], 1)
        self.labels = np.concatenate([u.sample_labels for u in users])
        self.window = window
        starts, spans, draws = [], [], []
        offset = 0
        for user in users:
            counts = torch.bincount(user.windows.recording, minlength=len(user.lengths)).tolist()
            for length, count in zip(user.lengths, counts, strict=True):
                if count:
                    starts.append(offset)
                    spans.append(length - window + 1)
                    draws.append(per_recording or count)
                offset += length
        self.first = torch.repeat_interleave(torch.tensor(starts), torch.tensor(draws))
        self.span = torch.repeat_interleave(torch.tensor(spans), torch.tensor(draws))

    def __len__(self) -> int:
        return len(self.first)

    def epoch(self, batch: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (windows (B, C, W), gestures (B,)) once over all draws, in random order, but windows that tie."""
        start = self.first + (torch.rand(len(self), generator=generator) * self.span).long()
        view = self.signal.unfold(1, self.window, 1).permute(1, 0, 2)
        samples = np.lib.stride_tricks.sliding_window_view(self.labels, self.window)
        for index in torch.split(torch.randperm(len(self), generator=generator), batch):
            at = start[index]
            gesture = torch.from_numpy(majority(samples[at.numpy()]))
            clear = gesture != UNLABELLED
            if int(clear.sum()) > 1:
                yield view[at[clear]], gesture[clear]
