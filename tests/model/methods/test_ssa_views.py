"""The variants of SSA that the ablations compare: its own sequence length, a masked second view, no second view."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from emgup_model.config import parse
from emgup_model.data.windows import WindowedUser
from emgup_model.errors import ConfigError
from emgup_model.methods import ssa
from emgup_model.methods.base import Target
from emgup_model.methods.ssa import SsaConfig, contrastive_loss, mask_samples, run_ssa
from tests.model.methods.test_ssa import SpyContext, SpyHeads

STEPS, W = 60, 20


class AngleModel(torch.nn.Module):
    """Stands in for a backbone: the embedding of a window is a unit vector that tells the window's number."""

    embedding_dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.passes = 0

    def feature_parameters(self) -> list[torch.nn.Parameter]:
        return [self.scale]

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        angle = x.amax((1, 2)) / 100
        return self.scale * torch.stack([angle.cos(), angle.sin()], 1)


def numbers(z: torch.Tensor) -> list[list[int]]:
    """Window numbers (B, L) of embeddings of :class:`AngleModel`."""
    angle: list[list[int]] = (100 * torch.atan2(z[..., 1], z[..., 0])).round().int().tolist()
    return angle


def counting_user(recordings: int = 2, windows: int = STEPS) -> WindowedUser:
    """Window n holds the number n in all its samples."""
    n = torch.arange(recordings * windows)
    signal = n.repeat_interleave(W).float().expand(4, -1)
    return WindowedUser(signal, W * n, n // windows, n % windows, ("a", "b"), W)


def run(config: SsaConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[AngleModel, dict[str, object], list[list[int]]]:
    """Run SSA without gradients; the model, the log, and the windows each context was made of, in order."""
    seen: list[list[int]] = []

    class Spy(torch.nn.Module):
        def __init__(self, *_: object) -> None:
            super().__init__()

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            seen.extend(numbers(z))
            return z[:, -1]

    monkeypatch.setattr(ssa, "ContextNetwork", Spy)
    model = AngleModel()
    target = Target(counting_user(), 20)
    log = run_ssa(model, target, config, frozen_bn=True, gradients=False, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    return model, log, seen


@pytest.mark.parametrize("T", [8, 12, 17, 24])
def test_contexts_have_t_consecutive_windows_of_one_recording(T: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A4: L = T + K; with a reversed view both contexts cover the first T windows of a sequence."""
    L = T + 3
    _, log, seen = run(SsaConfig(epochs=1, sequence_length=L), monkeypatch)
    starts = [first + i * L for first in (0, STEPS) for i in range(STEPS // L)]
    forward = [list(range(s, s + T)) for s in starts]
    assert log["sequences"] == len(starts)
    assert sorted(seen) == sorted(forward + [c[::-1] for c in forward])


def test_without_its_own_length_ssa_cuts_the_releases_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    _, log, seen = run(SsaConfig(epochs=1), monkeypatch)
    assert log["sequences"] == 2 * STEPS // 20
    assert {len(c) for c in seen} == {17}


def test_a_length_no_recording_has_is_an_error_unless_ssa_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"61 windows of ssa\.sequence_length"):
        run(SsaConfig(sequence_length=STEPS + 1), monkeypatch)
    assert run(SsaConfig(sequence_length=STEPS + 1, epochs=0), monkeypatch)[1]["steps"] == 0


def test_its_own_length_must_leave_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="smaller than the sequence length 3"):
        run(SsaConfig(sequence_length=3), monkeypatch)


def test_masking_zeroes_the_stated_share_of_every_window_on_all_channels() -> None:
    x = torch.ones(50, 4, 52)
    masked = mask_samples(x, 0.15, torch.Generator().manual_seed(0))
    gone = masked == 0
    assert bool((x == 1).all())
    assert torch.equal(gone, gone[:, :1].expand_as(gone))
    assert gone[:, 0].sum(1).tolist() == [8] * 50  # round(0.15 * 52)
    assert len({tuple(row) for row in gone[:, 0].tolist()}) == 50
    assert bool(gone[:, 0].any(0).all())


def test_masking_depends_on_the_generator_alone_and_zeroes_at_least_one_sample() -> None:
    x = torch.randn(3, 2, 20)
    again = [mask_samples(x, 0.01, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*again)
    assert (again[0] == 0).all(1).sum(1).tolist() == [1, 1, 1]


def test_the_masked_view_keeps_the_order_and_each_context_predicts_the_other_views_future() -> None:
    """A27, as TS-TCC: c = g(z_1..z_T) predicts z'_{T+k}, c' = g(z'_1..z'_T) predicts z_{T+k}."""
    torch.manual_seed(0)
    B, L, K, d = 3, 8, 3, 64
    z, z2 = (F.normalize(torch.randn(B, L, d), dim=-1) for _ in range(2))
    config = SsaConfig(future_windows=K, temperature=0.02, second_view="masked", masked_share=0.15)
    right = contrastive_loss(z, z2, SpyContext(), SpyHeads(z[:, -K:], z2[:, -K:]), config)  # type: ignore[arg-type]
    wrong = contrastive_loss(z, z2, SpyContext(), SpyHeads(z2[:, -K:], z[:, -K:]), config)  # type: ignore[arg-type]
    past = contrastive_loss(z, z2, SpyContext(), SpyHeads(z[:, -K:], z2[:, :K]), config)  # type: ignore[arg-type]
    assert float(right) < 1e-6
    assert float(wrong) > 1
    assert float(past) > 1


def test_the_masked_views_contexts_cover_the_same_windows_in_the_same_order() -> None:
    t = torch.arange(1.0, 9).view(1, 8, 1).expand(1, 8, 4)
    g = SpyContext()
    config = SsaConfig(second_view="masked", masked_share=0.15)
    contrastive_loss(t, t + 10, g, SpyHeads(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)), config)  # type: ignore[arg-type]
    assert g.seen == [[1, 2, 3, 4, 5], [11, 12, 13, 14, 15]]


def test_a_single_view_predicts_its_own_future() -> None:
    torch.manual_seed(0)
    z = F.normalize(torch.randn(2, 8, 64), dim=-1)
    config = SsaConfig(second_view="none", temperature=0.02)
    assert float(contrastive_loss(z, None, SpyContext(), SpyHeads(z[:, 5:]), config)) < 1e-6  # type: ignore[arg-type]
    assert float(contrastive_loss(z, None, SpyContext(), SpyHeads(z[:, :3]), config)) > 1  # type: ignore[arg-type]


@pytest.mark.parametrize(("view", "share", "passes"), [("reversed", None, 2), ("masked", 0.15, 2), ("none", None, 1)])
def test_a_single_view_makes_one_forward_pass_a_step(
    view: str, share: float | None, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pass in train mode moves BatchNorm statistics, so their number is part of the method."""
    config = parse(SsaConfig, {"epochs": 3, "second_view": view, "masked_share": share}, "x")
    model, log, _ = run(config, monkeypatch)
    assert log["steps"] == 3
    assert model.passes == 3 * passes


def test_masked_windows_reach_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    class Watching(AngleModel):
        def embed(self, x: torch.Tensor) -> torch.Tensor:
            shares.append(float((x == 0).float().mean()))
            return super().embed(x)

    user = counting_user()
    config = SsaConfig(epochs=1, second_view="masked", masked_share=0.25, heads=1)
    target = Target(WindowedUser(user.signal + 1, *(getattr(user, k) for k in list(vars(user))[1:])), 20)
    run_ssa(Watching(), target, config, frozen_bn=True, gradients=True, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert shares == pytest.approx([0.0, 0.25])


@pytest.mark.parametrize("data", [{"second_view": "masked"}, {"masked_share": 0.15}])
def test_a_mask_needs_its_share_and_a_share_its_mask(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="masked_share goes with"):
        parse(SsaConfig, data, "x")
