"""Smoothing over held gestures is exact inference in the model it names, run by run."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emgup_model.data.windows import WindowedUser
from emgup_model.methods.held import LONGEST, held_posterior, run_index
from tests.model.methods.toys import grid

lengths = st.lists(st.integers(1, 5), min_size=1, max_size=4)
stays = st.floats(0, 0.99)


def evidence(windows: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random log-likelihoods (N, K) and a random prior (K,)."""
    generator = torch.Generator().manual_seed(seed)
    log_p = 2 * torch.randn(windows, classes, generator=generator, dtype=torch.float64)
    return log_p, torch.rand(classes, generator=generator, dtype=torch.float64).softmax(0)


def by_enumeration(log_p: torch.Tensor, stay: float, prior: torch.Tensor) -> torch.Tensor:
    """(T, K) posterior of one run, summed over all K^T paths of states."""
    T, K = log_p.shape
    likelihood, total = log_p.exp(), torch.zeros(T, K, dtype=torch.float64)
    for path in product(range(K), repeat=T):
        p = float(prior[path[0]])
        for a, b in pairwise(path):
            p *= stay * (a == b) + (1 - stay) * float(prior[b])
        for t, k in enumerate(path):
            p *= float(likelihood[t, k])
        for t, k in enumerate(path):
            total[t, k] += p
    return total / total.sum(1, keepdim=True)


def gappy(sizes: list[int], dropped: set[int]) -> WindowedUser:
    windows = grid(*sizes)
    keep = torch.tensor([i not in dropped for i in range(len(windows))])
    keep[0] = True
    return windows.subset(keep)


def runs(windows: WindowedUser) -> list[list[int]]:
    """Indices of each run, written out as a loop."""
    out: list[list[int]] = []
    for i in range(len(windows)):
        follows = i > 0 and (windows.recording[i], windows.position[i] - 1) == (
            windows.recording[i - 1],
            windows.position[i - 1],
        )
        if follows:
            out[-1].append(i)
        else:
            out.append([i])
    return out


@settings(max_examples=40, deadline=None)
@given(lengths, st.sets(st.integers(1, 20), max_size=6), st.integers(2, 3), stays, st.integers(0, 99))
def test_the_posterior_sums_over_all_paths_of_each_run(
    sizes: list[int], dropped: set[int], classes: int, stay: float, seed: int
) -> None:
    windows = gappy(sizes, dropped)
    log_p, prior = evidence(len(windows), classes, seed)
    posterior = held_posterior(log_p, windows, stay, prior)
    for run in runs(windows):
        assert torch.allclose(posterior[run], by_enumeration(log_p[run], stay, prior), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(lengths, st.sets(st.integers(1, 20), max_size=10))
def test_a_run_ends_with_its_recording_and_at_every_gap(sizes: list[int], dropped: set[int]) -> None:
    windows = gappy(sizes, dropped)
    number, place = run_index(windows)
    expected = runs(windows)
    assert number.tolist() == [n for n, run in enumerate(expected) for _ in run]
    assert place.tolist() == [t for run in expected for t in range(len(run))]


def test_what_happens_in_one_recording_changes_no_other() -> None:
    windows = grid(5, 7)
    log_p, prior = evidence(12, 3, 0)
    changed = log_p.clone()
    changed[5:] = -changed[5:]
    before, after = (held_posterior(p, windows, 0.9, prior) for p in (log_p, changed))
    assert torch.equal(before[:5], after[:5])
    assert not torch.allclose(before[5:], after[5:])


def test_without_persistence_a_uniform_prior_gives_back_the_softmax_and_any_other_bayes() -> None:
    log_p, prior = evidence(9, 4, 1)
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    assert torch.allclose(held_posterior(log_p, grid(4, 5), 0.0, uniform), log_p.softmax(1), atol=1e-9)
    weighted = log_p.softmax(1) * prior
    expected = weighted / weighted.sum(1, keepdim=True)
    assert torch.allclose(held_posterior(log_p, grid(4, 5), 0.0, prior), expected, atol=1e-9)


def test_an_isolated_contradicting_window_is_overruled() -> None:
    p = torch.tensor([[0.8, 0.2]] * 4 + [[0.1, 0.9]] + [[0.8, 0.2]] * 4)
    out = held_posterior(p.log(), grid(9), 0.9, torch.tensor([0.5, 0.5]))
    assert out.argmax(1).tolist() == [0] * 9
    assert float(out[4, 0]) > 0.8


@pytest.mark.parametrize("border", [2, 5, 8])
def test_a_real_change_stays_sharp(border: int) -> None:
    p = torch.tensor([[0.95, 0.05]] * border + [[0.05, 0.95]] * (10 - border))
    out = held_posterior(p.log(), grid(10), 0.7, torch.tensor([0.5, 0.5]))
    assert out.argmax(1).tolist() == [0] * border + [1] * (10 - border)
    assert float(out.amax(1).min()) > 0.85


@pytest.mark.parametrize("constant", [-900.0, 900.0])
def test_likelihoods_are_relative_to_the_windows_likeliest_gesture(constant: float) -> None:
    log_p, prior = evidence(12, 4, seed=3)
    windows = grid(12)
    moved = log_p + constant * torch.linspace(0, 1, 12, dtype=torch.float64).unsqueeze(1)
    assert torch.allclose(held_posterior(moved, windows, 0.8, prior), held_posterior(log_p, windows, 0.8, prior))


def test_a_window_that_rules_a_gesture_out_and_a_long_run_stay_finite() -> None:
    log_p = torch.full((3000, 3), float("-inf"))
    log_p[torch.arange(3000), torch.arange(3000) // 1500] = 0
    out = held_posterior(log_p, grid(3000), 0.99, torch.tensor([0.98, 0.01, 0.01]))
    assert bool(torch.isfinite(out).all())
    assert torch.allclose(out.sum(1), torch.ones(3000), atol=1e-5)
    assert out.argmax(1).tolist() == [0] * 1500 + [1] * 1500


def test_a_window_that_is_sure_of_a_gesture_the_prior_excludes_is_overruled() -> None:
    log_p = torch.tensor([[float("-inf"), 0.0]] * 3)
    out = held_posterior(log_p, grid(2, 1), 0.5, torch.tensor([1.0, 0.0]))
    assert out.tolist() == [[1, 0]] * 3


def test_a_very_long_run_is_smoothed_in_pieces() -> None:
    log_p, prior = evidence(2 * LONGEST + 3, 3, 5)
    whole = held_posterior(log_p, grid(len(log_p)), 0.9, prior)
    first = held_posterior(log_p[:LONGEST], grid(LONGEST), 0.9, prior)
    last = held_posterior(log_p[2 * LONGEST :], grid(3), 0.9, prior)
    assert torch.allclose(whole[:LONGEST], first)
    assert torch.allclose(whole[2 * LONGEST :], last)
