from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from emgup_model.backbones import Backbone, CnnConfig, build_backbone
from emgup_model.methods.base import copy_model
from emgup_model.methods.ssp import SspConfig, run_ssp, select_windows, student_loss, update_teacher
from tests.model.methods.toys import toy_target


def test_a_sequence_is_kept_with_all_its_windows_when_enough_are_confident() -> None:
    """ξ = 0.8, Nc/L = 3/4: sequence 0 has 3 of 4 confident windows, sequence 1 has 2 of 4."""
    confidence = torch.tensor([0.9, 0.8, 0.1, 0.95, 0.9, 0.9, 0.2, 0.79])
    keep, kept = select_windows(confidence, torch.tensor([0] * 4 + [1] * 4), SspConfig())
    assert keep.tolist() == [True] * 4 + [False] * 4
    assert kept == 1


def test_fifteen_of_twenty_is_the_published_threshold() -> None:
    for confident, expected in ((15, True), (14, False)):
        confidence = torch.tensor([0.85] * confident + [0.1] * (20 - confident))
        keep, _ = select_windows(confidence, torch.zeros(20, dtype=torch.long), SspConfig())
        assert bool(keep.all()) is expected


def test_a_short_sequence_needs_the_same_share_rounded_up() -> None:
    five = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.1])
    assert select_windows(five, torch.zeros(5, dtype=torch.long), SspConfig())[1] == 1
    five[3] = 0.1
    assert select_windows(five, torch.zeros(5, dtype=torch.long), SspConfig())[1] == 0


def test_without_a_kept_sequence_single_windows_above_the_fallback_train() -> None:
    confidence = torch.tensor([0.95, 0.90, 0.1, 0.2])
    number = torch.zeros(4, dtype=torch.long)
    keep, kept = select_windows(confidence, number, SspConfig())
    assert keep.tolist() == [True, False, False, False]
    assert kept == 0
    assert not select_windows(confidence, number, SspConfig(fallback_confidence=None))[0].any()


def test_no_filter_keeps_everything() -> None:
    config = SspConfig(confidence=0.0, confident_share=0.0)
    assert select_windows(torch.rand(10) * 0.1, torch.arange(10) // 5, config)[0].all()


def test_the_student_learns_kept_windows_only_and_the_diversity_term_sees_the_whole_batch() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    keep = torch.tensor([True, True, False, False, False, False])
    eq9 = F.cross_entropy(logits[:2], label[:2])
    assert torch.equal(student_loss(logits, label, keep, SspConfig()), eq9)
    mean = logits.softmax(1).mean(0)
    entropy = float(-(mean * mean.log()).sum())
    weighted = student_loss(logits, label, keep, SspConfig(diversity_weight=0.5))
    assert float(weighted) == pytest.approx(float(eq9) - 0.5 * entropy, abs=1e-6)


def test_the_teacher_is_an_exponential_average_of_parameters_only() -> None:
    config = CnnConfig(width=4, embedding_dim=4)
    teacher, student = build_backbone(config, 2, 3), build_backbone(config, 2, 3)
    before = copy_model(teacher)
    student.norm.running_mean.fill_(7.0)
    update_teacher(teacher, student, 0.75)
    for t, b, s in zip(teacher.parameters(), before.parameters(), student.parameters(), strict=True):
        assert torch.allclose(t, 0.75 * b + 0.25 * s)
    assert torch.equal(teacher.norm.running_mean, before.norm.running_mean)


def test_a_recordings_last_shorter_run_takes_part(trained: Backbone) -> None:
    """A22: of each of the six recordings, 29 windows, three whole sequences of eight and one of five."""
    log = run_ssp(
        copy_model(trained),
        toy_target(),
        SspConfig(epochs=2),
        frozen_bn=True,
        gradients=False,
        generator=torch.Generator().manual_seed(0),
    )
    assert log["sequences_seen"] == 2 * 6 * 4
