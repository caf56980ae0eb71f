"""A gesture is held: neighbouring windows of one recording mostly show the same one.

A hidden Markov model with one state per gesture and a single persistence smooths window-wise class probabilities
(forward-backward; Rabiner, Proc. IEEE 77:257, 1989). Unlike an average over neighbours it keeps changes sharp.
"""

from __future__ import annotations

import torch

from emgup_model.data.windows import WindowedUser

LONGEST = 256
"""Windows smoothed together: a longer run is cut, so that the time steps of the recursions stay few."""


def run_index(windows: WindowedUser) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) number of the run of consecutive windows of one recording a window is in, and (N,) its place in that run."""
    first = windows.run_starts()
    run = torch.zeros_like(windows.starts)
    run[first[1:]] = 1
    run = run.cumsum(0)
    return run, torch.arange(len(windows), device=first.device) - first[run]


def held_posterior(log_p: torch.Tensor, windows: WindowedUser, stay: float, prior: torch.Tensor) -> torch.Tensor:
    """(N, K) posterior of the gesture at each window, given all windows of its run.

    Args:
        log_p: (N, K) log-likelihood of each gesture, up to a constant per window (a classifier's log-probabilities
            when it was trained on balanced classes).
        windows: the N windows, in recording order.
        stay: probability that the next window shows the same gesture for sure; else it is drawn from ``prior``.
        prior: (K,) class prior, which also starts every run.
    """
    run, place = _pieces(*run_index(windows))
    runs, longest, K = int(run[-1]) + 1, int(place.max()) + 1, log_p.shape[1]
    likelihood = log_p.new_ones(runs, longest, K)  # 1 after a run's end: no evidence
    likelihood[run, place] = (log_p - log_p.amax(1, keepdim=True)).exp().clamp_min(1e-12)
    step = stay * torch.eye(K, device=log_p.device) + (1 - stay) * prior.unsqueeze(0)
    forward = torch.empty_like(likelihood)
    state = _normalised(prior * likelihood[:, 0])
    forward[:, 0] = state
    for t in range(1, longest):
        state = _normalised((state @ step) * likelihood[:, t])
        forward[:, t] = state
    backward = torch.ones_like(likelihood)
    later = backward[:, -1]
    for t in range(longest - 2, -1, -1):
        later = _normalised((likelihood[:, t + 1] * later) @ step.T)
        backward[:, t] = later
    return _normalised(forward * backward)[run, place]


def _pieces(run: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same index pair with runs cut into pieces of at most ``LONGEST`` windows."""
    starts = place % LONGEST == 0
    return starts.cumsum(0) - 1, place % LONGEST


def _normalised(x: torch.Tensor) -> torch.Tensor:
    return x / x.sum(-1, keepdim=True).clamp_min(1e-30)
