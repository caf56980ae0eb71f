"""From a user's recordings to windows and sequences: one signal in memory, everything else is an index or a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from pydantic import Field
from scipy.signal import butter, sosfilt, sosfilt_zi

from emgup_model.config import Frozen
from emgup_model.data.store import UserFile
from emgup_model.errors import DataError


class WindowConfig(Frozen):
    """Window grid, in samples."""

    length: int = Field(52, ge=4, description="samples in one window (52 = 260 ms at 200 Hz)")
    hop: int = Field(20, ge=1, description="samples between the starts of consecutive windows")
    sequence_length: int = Field(20, ge=2, description="L: consecutive windows of one recording in one sequence")


class PreprocessingConfig(Frozen):
    """Causal filtering before windows are cut. Amplitude is scaled by one constant that travels with the release."""

    highpass_hz: float | None = Field(10.0, gt=0, description="cut-off of a causal Butterworth high-pass; null = none")
    highpass_order: int = Field(2, ge=1, le=8)


@dataclass(frozen=True)
class WindowedUser:
    """One user's windows, without labels: there is no field that could hold one.

    Attributes:
        signal: (C, T_total) float32, all recordings one after the other, filtered and scaled.
        starts: (N,) int64, first sample of each window in ``signal``, in recording order.
        recording: (N,) int64, index of the recording a window was cut from (windows never cross recordings).
        position: (N,) int64, index of the window inside its recording.
        names: recording names, indexed by ``recording``.
        window: window length W in samples.
    """

    signal: torch.Tensor
    starts: torch.Tensor
    recording: torch.Tensor
    position: torch.Tensor
    names: tuple[str, ...]
    window: int

    def __len__(self) -> int:
        return self.starts.numel()

    def view(self) -> torch.Tensor:
        """(T_total − W + 1, C, W) strided view of every possible window; costs no memory."""
        return self.signal.unfold(1, self.window, 1).permute(1, 0, 2)

    def batch(self, index: torch.Tensor | slice | None = None) -> torch.Tensor:
        """(B, C, W) windows ``index`` (all by default); only the batch itself is copied."""
        starts = self.starts if index is None else self.starts[index]
        return self.view()[starts]

    def subset(self, keep: torch.Tensor) -> WindowedUser:
        """The same signal with only the windows where ``keep`` (N,) is true."""
        return replace(self, starts=self.starts[keep], recording=self.recording[keep], position=self.position[keep])

    def own_stretch(self) -> WindowedUser:
        """The same windows with a copy of nothing but their own signal, and recordings without names.

        What is kept of the signal is each run of consecutive windows from its first sample to its last, run after run:
        whoever reads all of it reaches no sample of a window that was left out.
        """
        if not len(self):
            return replace(self, signal=self.signal[:, :0].clone(), names=("",) * len(self.names))
        first = self.run_starts()
        begin = self.starts[first]
        end = self.starts[torch.cat([first[1:], first.new_tensor([len(self)])]) - 1] + self.window
        before = torch.cat([begin.new_zeros(1), (end - begin).cumsum(0)[:-1]])
        run = torch.zeros_like(self.starts)
        run[first[1:]] = 1
        pieces = [self.signal[:, a:b] for a, b in zip(begin.tolist(), end.tolist(), strict=True)]
        starts = self.starts + (before - begin)[run.cumsum(0)]
        return replace(self, signal=torch.cat(pieces, 1), starts=starts, names=("",) * len(self.names))

    def run_starts(self) -> torch.Tensor:
        """Index of the first window of every run of consecutive windows of one recording."""
        new = torch.ones_like(self.recording, dtype=torch.bool)
        new[1:] = (self.recording[1:] != self.recording[:-1]) | (self.position[1:] != self.position[:-1] + 1)
        return torch.nonzero(new).flatten()

    def to(self, device: torch.device | str) -> WindowedUser:
        """Signal and indices on ``device``."""
        return replace(
            self,
            signal=self.signal.to(device),
            starts=self.starts.to(device),
            recording=self.recording.to(device),
            position=self.position.to(device),
        )

    def sequences(self, length: int, keep_short: bool = False) -> list[torch.Tensor]:
        """Window indices of non-overlapping runs of ``length`` consecutive windows inside one recording.

        Args:
            length: L.
            keep_short: also return each recording's last, shorter run (docs/method.md, A22: SSP uses it, SSA does not).
        """
        edges = [*self.run_starts().tolist(), len(self)]
        out = []
        for lo, hi in pairwise(edges):
            for start in range(lo, hi, length):
                stop = min(start + length, hi)
                if stop - start == length or keep_short:
                    out.append(torch.arange(start, stop, device=self.starts.device))
        return out


class CausalFilter:
    """The high-pass of one recording, piece by piece: the pieces may be of any size, the result is the same bits."""

    def __init__(self, rate: float, config: PreprocessingConfig) -> None:
        """Raises DataError when the cut-off is not below half of ``rate`` (Hz)."""
        if config.highpass_hz is not None and config.highpass_hz >= rate / 2:
            raise DataError(f"highpass_hz {config.highpass_hz:g} must lie below half the sampling rate {rate:g} Hz")
        self._sos = highpass_sections(rate, config)
        self._state: np.ndarray | None = None

    def __call__(self, emg: np.ndarray) -> np.ndarray:
        """The next samples (T, C), filtered; float32 (T, C). The first one sets the steady state to start in."""
        x = emg.astype(np.float64)
        if self._sos is not None and len(x):
            if self._state is None:
                self._state = sosfilt_zi(self._sos)[:, :, None] * x[0]
            x, self._state = sosfilt(self._sos, x, axis=0, zi=self._state)
        return x.astype(np.float32)


def highpass_sections(rate: float, config: PreprocessingConfig) -> np.ndarray | None:
    """(sections, 6) second-order sections of the Butterworth high-pass at ``rate`` Hz; None = no filter."""
    if config.highpass_hz is None:
        return None
    return np.asarray(butter(config.highpass_order, config.highpass_hz, "highpass", fs=rate, output="sos"))


def filter_recording(emg: np.ndarray, rate: float, config: PreprocessingConfig) -> np.ndarray:
    """High-pass one recording (T, C) causally, started in the steady state of its first sample; float32 (T, C)."""
    return CausalFilter(rate, config)(emg)


def load_windows(
    user: UserFile,
    windows: WindowConfig,
    preprocessing: PreprocessingConfig,
    scale: float,
    names: Sequence[str] | None = None,
) -> WindowedUser:
    """Cut a user's recordings into windows.

    Args:
        user: open recording file; each recording is read once.
        windows: window grid.
        preprocessing: filter applied per recording.
        scale: the signal is divided by this constant (source RMS, from the release).
        names: recordings to use, in order; all of the file by default.

    Raises:
        DataError: no recording is as long as one window.
    """
    names = [r.name for r in user.recordings] if names is None else list(names)
    parts, starts, recording, position = [], [], [], []
    offset = 0
    for i, name in enumerate(names):
        x = filter_recording(user.read(name), user.info.sampling_rate_hz, preprocessing) / np.float32(scale)
        n = max(0, (len(x) - windows.length) // windows.hop + 1)
        parts.append(torch.from_numpy(np.ascontiguousarray(x.T)))
        starts.append(offset + windows.hop * torch.arange(n))
        recording.append(torch.full((n,), i))
        position.append(torch.arange(n))
        offset += len(x)
    if not sum(len(s) for s in starts):
        raise DataError(
            f"user '{user.info.user}' has no recording of at least {windows.length} samples (one window); "
            "choose a shorter windows.length or drop the user"
        )
    return WindowedUser(
        torch.cat(parts, 1), torch.cat(starts), torch.cat(recording), torch.cat(position), tuple(names), windows.length
    )


UNLABELLED = -1
"""In place of a gesture index: a window that no gesture has most samples of, or of a recording without a label."""
AT_ONCE = 4096


def majority(samples: np.ndarray) -> np.ndarray:
    """(N,) the gesture that most samples of each of N windows show, of their gestures (N, W); a tie is UNLABELLED.

    The one rule of training, validation, scenarios and scores.
    """
    counts = np.stack([(samples == k).sum(1) for k in range(int(samples.max(initial=0)) + 1)], 1)
    top = counts.max(1, keepdims=True)
    tied = (counts == top).sum(1) > 1
    return np.where(tied, UNLABELLED, counts.argmax(1))


def window_labels(labels: Mapping[str, int | np.ndarray], user: WindowedUser, lengths: Sequence[int]) -> np.ndarray:
    """(N,) gesture index of each window: the recording's, or what most of the window's samples show.

    A window whose samples tie, or whose recording has no label, is UNLABELLED.

    Args:
        labels: as read by ``read_labels``; used by the evaluator and by source training only.
        user: windows over the recordings ``user.names``.
        lengths: samples of each recording in ``user.names``.

    Raises:
        DataError: a per-sample label of another length than its recording.
    """
    out = np.full(len(user), UNLABELLED, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for i, name in enumerate(user.names):
        here = np.flatnonzero(user.recording.numpy() == i)
        if name not in labels or not len(here):
            continue
        label = labels[name]
        if np.ndim(label) == 0:
            out[here] = int(label)
            continue
        per_sample = np.asarray(label)
        if len(per_sample) != lengths[i]:
            raise DataError(f"recording '{name}' has {len(per_sample)} labels for {lengths[i]} samples")
        view = np.lib.stride_tricks.sliding_window_view(per_sample, user.window)
        for some in np.array_split(here, -(-len(here) // AT_ONCE)):  # the samples of windows that overlap are copied
            out[some] = majority(view[user.starts.numpy()[some] - offsets[i]])
    return out
