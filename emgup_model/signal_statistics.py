"""What a release says of the source users' signals: a few moments per gesture, from which windows can be drawn.

They let a client rehearse gestures that its user's data lacks, without a sample of anybody's recording: every number is
an average over at least three source users of a fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from emgup_model.data.windows import WindowedUser

PREFIX = "source_statistics."
"""Of the statistics' names among a release's tensors."""
FEWEST_PEOPLE = 3
"""Moments of fewer would be one person's own, or give one to the other of two."""
SMALLEST_POWER = 1e-8
LARGEST_LOG_RMS = 40.0
TOLERANCE = 1e-3
"""Of float32 averages, relative to the values they are differences of."""
RIDGE = 1e-4


@dataclass(frozen=True)
class SignalStatistics:
    """Moments of K gestures' windows of C channels and W samples, in units of the release's amplitude constant.

    Attributes:
        mean: (K, C) mean of the log RMS of a window's channel.
        covariance: (K, C, C) covariance of the log RMS between channels, within and between users.
        correlation: (K, C, C) correlation of the channels' samples inside a window.
        power: (K, W // 2 + 1) mean power spectrum; all zero where fewer than three source users showed the gesture: of
            it nothing is known.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    correlation: torch.Tensor
    power: torch.Tensor

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> SignalStatistics:
        """Inverse of :meth:`tensors`. Raises KeyError when one is missing."""
        return cls(*(tensors[PREFIX + name] for name in ("mean", "covariance", "correlation", "power")))

    def tensors(self) -> dict[str, torch.Tensor]:
        """By the names they have in a release."""
        return {
            PREFIX + name: getattr(self, name).contiguous() for name in ("mean", "covariance", "correlation", "power")
        }

    def problem(self) -> str | None:
        """What cannot be in moments that :func:`measure` made of any signal; None if there is nothing."""
        window = 2 * self.power.shape[1] - 1  # or one sample less
        variance = self.covariance.diagonal(dim1=1, dim2=2)
        largest = self.covariance.abs().amax((1, 2), keepdim=True)
        skewed = (self.covariance - self.covariance.mT).abs() > TOLERANCE * largest.clamp_min(1)
        uneven = (self.correlation - self.correlation.mT).abs() > TOLERANCE
        found = {
            "a log RMS that no signal has": self.mean.abs() > LARGEST_LOG_RMS,
            "a negative variance": variance < -TOLERANCE * (1 + self.mean.square()),
            "a variance that no signal has": variance > LARGEST_LOG_RMS**2,
            "a covariance that is not symmetric": skewed,
            "a correlation that is not symmetric": uneven,
            "a correlation beyond 1": self.correlation.abs() > 1 + TOLERANCE,
            "a negative power": self.power < 0,
            "a power that no window has": self.power > (1 + TOLERANCE) * window**2,
        }
        return next((text for text, where in found.items() if bool(where.any())), None)

    def draw(self, per_gesture: int, window: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Gaussian windows (N, C, W) with these moments and their gestures (N,), ``per_gesture`` of each that is known.

        Coloured noise of the gesture's spectrum, mixed to its channel correlation, scaled to log-normal channel RMS.

        Raises:
            ValueError: no gesture is known.
        """
        known = torch.nonzero(self.power.sum(1) > 0).flatten()
        if not len(known):
            raise ValueError(
                f"its signal statistics know no gesture: each was shown by fewer than {FEWEST_PEOPLE} source users; "
                "train on more people, or set replay: null"
            )
        windows = [self._windows(int(k), per_gesture, window, generator) for k in known]
        return torch.cat(windows), known.repeat_interleave(per_gesture)

    def _windows(self, gesture: int, count: int, window: int, generator: torch.Generator) -> torch.Tensor:
        channels = self.mean.shape[1]
        noise = torch.fft.rfft(torch.randn(count, channels, window, generator=generator), dim=2)
        x = torch.fft.irfft(noise * self.power[gesture].sqrt(), n=window, dim=2)
        x = _factor(self.correlation[gesture]) @ x
        x = x / x.square().mean(2, keepdim=True).sqrt().clamp_min(SMALLEST_POWER)
        spread = torch.randn(count, channels, generator=generator) @ _factor(self.covariance[gesture]).T
        scale: torch.Tensor = (self.mean[gesture] + spread).exp().unsqueeze(2)
        windows: torch.Tensor = x * scale
        return windows


def moment_shapes(channels: int, classes: int, window: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the statistics by name, for ``classes`` gestures and windows (``channels``, ``window``)."""
    square = (classes, channels, channels)
    spectrum = (classes, window // 2 + 1)
    return {"mean": (classes, channels), "covariance": square, "correlation": square, "power": spectrum}


def measure(
    users: Sequence[tuple[WindowedUser, np.ndarray]], classes: int, people: Sequence[str] | None = None
) -> SignalStatistics:
    """Statistics of (windows, their gestures (N,)) of source users, every user with equal weight.

    Of a gesture that fewer than three people show nothing is measured.

    Args:
        users: windows and gestures.
        classes: K.
        people: who each user is, where one person may have two names; by default all are different.
    """
    names = range(len(users)) if people is None else people
    per_gesture = [
        [_moments(windows.batch(torch.from_numpy(np.flatnonzero(labels == k)))) for windows, labels in users]
        for k in range(classes)
    ]
    channels, window = users[0][0].signal.shape[0], users[0][0].window
    means, covariances, correlations, powers = [], [], [], []
    for found in per_gesture:
        seen = [m for m in found if m is not None]
        if len({who for who, m in zip(names, found, strict=True) if m is not None}) < FEWEST_PEOPLE:
            seen = [_nothing(channels, window)]
        mean, second, correlation, power = (torch.stack(part).mean(0) for part in zip(*seen, strict=True))
        means.append(mean)
        covariances.append(second - torch.outer(mean, mean))
        correlations.append(correlation)
        powers.append(power)
    return SignalStatistics(*(torch.stack(part) for part in (means, covariances, correlations, powers)))


_Moments = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _moments(x: torch.Tensor) -> _Moments | None:
    """Of one user's windows (N, C, W) of one gesture: mean and second moment of the log RMS, correlation, spectrum."""
    if not len(x):
        return None
    log_rms = x.square().mean(2).clamp_min(SMALLEST_POWER).log() / 2
    even = x / log_rms.exp().unsqueeze(2)
    correlation = torch.einsum("nct,ndt->cd", even, even) / (x.shape[0] * x.shape[2])
    power = torch.fft.rfft(even, dim=2).abs().square().mean((0, 1))
    return log_rms.mean(0), torch.einsum("nc,nd->cd", log_rms, log_rms) / len(x), correlation, power


def _nothing(channels: int, window: int) -> _Moments:
    return torch.zeros(channels), torch.eye(channels), torch.eye(channels), torch.zeros(window // 2 + 1)


def _factor(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix whose product with its transpose is ``matrix`` (C, C), made definite where rounding left it not."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    factor: torch.Tensor = vectors * values.clamp_min(RIDGE * float(values.abs().max())).sqrt()
    return factor
