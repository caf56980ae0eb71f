"""What holds for every method, and what the published schedule does to BatchNorm."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn import functional as F

from emgup_model.backbones import Backbone, Cnn, CnnConfig, build_backbone
from emgup_model.data.windows import WindowedUser
from emgup_model.methods import (
    METHODS,
    AdaBnConfig,
    EmgupConfig,
    NrcConfig,
    ShotConfig,
    SourceOnlyConfig,
    Target,
    TentConfig,
    adapt,
    base,
)
from emgup_model.methods.base import batch_norms, copy_model, predict_logits
from emgup_model.methods.information import marginal_entropy
from emgup_model.methods.refined import RefinedSspConfig
from emgup_model.methods.refined_labels import LabelConfig
from emgup_model.methods.ssa import SsaConfig
from emgup_model.methods.ssp import SspConfig
from tests.model.backbones.nets import SMALL
from tests.model.methods.toys import short_emgup, toy_statistics

CONFIGS = {
    "source_only": SourceOnlyConfig(),
    "adabn": AdaBnConfig(),
    "emgup": EmgupConfig(ssa=SsaConfig(epochs=2), ssp=SspConfig(epochs=2)),
    "emgup_refined": EmgupConfig(
        batch_norm="frozen",
        target_share=0.5,
        ssa=SsaConfig(epochs=1, candidates="other_sequences"),
        ssp=RefinedSspConfig(epochs=2, labels=LabelConfig(prior="estimated"), ema=0.5),
    ),
    "emgup_safe": short_emgup(),
    "emgup_turned": short_emgup(safety=None),
    "emgup_masked": EmgupConfig(
        target_share=1.0,
        reestimate_at_end=True,
        ssa=SsaConfig(epochs=2, sequence_length=6, second_view="masked", masked_share=0.15),
        ssp=SspConfig(epochs=2, diversity_weight=1.0),
    ),
    "shot": ShotConfig(epochs=2, target_share=0.5),
    "tent": TentConfig(epochs=2, diversity=True),
    "nrc": NrcConfig(epochs=2),
}


def target(windows: int = 60, gain: float = 3.0) -> Target:
    generator = torch.Generator().manual_seed(5)
    signal = gain * torch.randn(4, 20 * windows, generator=generator) + 0.5
    index = torch.arange(windows)
    recording = index // 30
    user = WindowedUser(signal, 20 * index, recording, index % 30, ("a", "b"), 20)
    return Target(user, 8, ring=True, source_statistics=toy_statistics())


@pytest.fixture
def model() -> Backbone:
    torch.manual_seed(0)
    net = build_backbone(CnnConfig(width=8, embedding_dim=8), 4, 3)
    net.train()
    with torch.no_grad():
        for _ in range(30):
            net(torch.randn(64, 4, 20))
    return net.eval()


def changed(a: Backbone, b: Backbone, part: str) -> bool:
    old, new = a.state_dict(), b.state_dict()
    return any(not torch.equal(old[k], new[k]) for k in old if part in k)


def weights_moved(a: Backbone, b: Backbone) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((x - y).detach().abs().max()) for x, y in pairs)


def test_every_registered_method_is_tested_here() -> None:
    assert {c.kind for c in CONFIGS.values()} == set(METHODS)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_method_takes_labels_and_none_changes_its_input(name: str, model: Backbone) -> None:
    assert list(inspect.signature(METHODS[CONFIGS[name].kind]).parameters) == ["model", "target", "config", "seed"]
    assert set(Target.__dataclass_fields__) == {
        "windows",
        "sequence_length",
        "ring",
        "source_statistics",
        "checkpoints",
    }
    before = copy_model(model)
    result = adapt(model, target(), CONFIGS[name], 0)
    assert not changed(before, model, "")
    assert result.model is not model
    assert not result.model.training


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_seed_gives_the_same_weights_and_the_callers_random_state_is_untouched(
    name: str, model: Backbone
) -> None:
    state = torch.get_rng_state()
    first = adapt(model, target(), CONFIGS[name], 3).model
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert not changed(first, adapt(model, target(), CONFIGS[name], 3).model, "")


def test_source_only_predicts_what_the_source_predicts(model: Backbone) -> None:
    windows = target().windows
    adapted = adapt(model, target(), SourceOnlyConfig(), 0).model
    assert torch.equal(predict_logits(model, windows), predict_logits(adapted, windows))


def test_adabn_takes_the_users_exact_statistics_and_moves_no_weight(model: Backbone) -> None:
    adapted = adapt(model, target(), AdaBnConfig(), 0).model
    assert isinstance(adapted, Cnn)
    assert weights_moved(model, adapted) == 0
    x = target().windows.batch().unsqueeze(2)
    first = adapted.blocks[0](x)
    assert torch.allclose(adapted.blocks[1].running_mean, first.mean((0, 2, 3)), atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(adapted.blocks[1].running_var, first.transpose(0, 1).flatten(1).var(1), rtol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("at_once", [2, 7, 59])
def test_statistics_are_exact_whatever_fits_into_one_pass(
    model: Backbone, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last pass has fewer windows than the others, or one: it weighs as much as it holds."""
    whole = adapt(model, target(), AdaBnConfig(), 0).model
    monkeypatch.setattr(base, "MOST_WINDOWS", at_once)
    parts = adapt(model, target(), AdaBnConfig(), 0).model
    for a, b in zip(batch_norms(whole), batch_norms(parts), strict=True):
        assert torch.allclose(a.running_mean, b.running_mean, atol=1e-6)  # type: ignore[arg-type]
        assert torch.allclose(a.running_var, b.running_var, rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("backbone", SMALL)
def test_re_estimated_statistics_normalise_the_users_windows_in_every_layer(backbone: str) -> None:
    torch.manual_seed(0)
    net = build_backbone(SMALL[backbone], 4, 3).eval()
    if not any(batch_norms(net)):
        return
    adapted = adapt(net, target(), AdaBnConfig(), 0).model
    seen = []
    for layer in batch_norms(adapted):
        layer.register_forward_pre_hook(lambda layer, x: seen.append((layer, x[0].transpose(0, 1).flatten(1))))
    with torch.no_grad():
        adapted.embed(target().windows.batch())
    assert len(seen) == len(list(batch_norms(adapted)))
    for layer, x in seen:
        assert torch.allclose(layer.running_mean, x.mean(1), atol=1e-5)
        assert torch.allclose(layer.running_var, x.var(1), rtol=1e-3, atol=1e-6)


def test_adabn_interpolates_between_source_and_user(model: Backbone) -> None:
    none, half, full = (adapt(model, target(), AdaBnConfig(target_share=s), 0).model for s in (0.0, 0.5, 1.0))
    for a, b, c in zip(*(batch_norms(m) for m in (none, half, full)), strict=True):
        assert torch.allclose(b.running_mean, (a.running_mean + c.running_mean) / 2, atol=1e-5)  # type: ignore[operator, arg-type]
    assert not changed(model, none, "running_mean")


def test_the_published_rate_moves_weights_by_at_most_steps_times_rate(model: Backbone) -> None:
    config = EmgupConfig()
    result = adapt(model, target(), config, 0)
    steps = result.log["ssa"]["steps"] + result.log["ssp"]["steps"]
    assert 0 < weights_moved(model, result.model) <= 1.5 * steps * 1e-7
    assert changed(model, result.model, "running_mean")


def test_without_gradients_only_batch_norm_statistics_move(model: Backbone) -> None:
    result = adapt(model, target(), EmgupConfig(gradients=False), 0)
    assert weights_moved(model, result.model) == 0
    assert changed(model, result.model, "running_mean")


def test_frozen_batch_norm_keeps_the_source_statistics(model: Backbone) -> None:
    result = adapt(model, target(), EmgupConfig(batch_norm="frozen"), 0)
    assert not changed(model, result.model, "running")
    assert weights_moved(model, result.model) > 0


def test_statistics_taken_at_the_end_are_those_of_the_final_weights(model: Backbone) -> None:
    stages = {"ssa": SsaConfig(epochs=3, learning_rate=1e-3), "ssp": SspConfig(epochs=3, learning_rate=1e-3)}
    moved = adapt(model, target(), EmgupConfig(**stages), 0).model
    result = adapt(model, target(), EmgupConfig(**stages, reestimate_at_end=True), 0).model
    assert weights_moved(moved, result) == 0
    assert changed(moved, result, "running_mean")
    exact = adapt(moved, target(), AdaBnConfig(), 0).model
    for a, b in zip(batch_norms(result), batch_norms(exact), strict=True):
        assert torch.allclose(a.running_mean, b.running_mean, atol=1e-5)  # type: ignore[arg-type]
        assert torch.allclose(a.running_var, b.running_var, rtol=1e-4)  # type: ignore[arg-type]


def test_the_diversity_term_spreads_predictions_over_gestures(model: Backbone) -> None:
    with torch.no_grad():
        model.get_parameter("head.bias")[0] += 2  # nearly every window is taken for the first gesture

    def spread(weight: float) -> float:
        stage = SspConfig(epochs=20, learning_rate=1e-3, confidence=0, confident_share=0, diversity_weight=weight)
        config = EmgupConfig(ssa=SsaConfig(epochs=0), ssp=stage)
        return float(marginal_entropy(predict_logits(adapt(model, target(), config, 0).model, target().windows)))

    assert spread(1.0) > spread(0.0) + 0.05


def test_the_classifier_moves_in_ssp_only(model: Backbone) -> None:
    loud = SsaConfig(learning_rate=1e-3, epochs=2)
    ssa = adapt(model, target(), EmgupConfig(ssa=loud, ssp=SspConfig(epochs=0)), 0).model
    assert not changed(model, ssa, "head")
    assert changed(model, ssa, "blocks.0.weight")
    all_windows = SspConfig(learning_rate=1e-3, epochs=1, confidence=0, confident_share=0)
    ssp = adapt(model, target(), EmgupConfig(ssa=SsaConfig(epochs=0), ssp=all_windows), 0).model
    assert changed(model, ssp, "head")


def test_ssa_lowers_its_loss_at_a_working_rate(model: Backbone) -> None:
    config = SsaConfig(epochs=40, learning_rate=1e-3, auxiliary_learning_rate=1e-3, temperature=0.1)
    loss = adapt(model, target(), EmgupConfig(ssa=config, ssp=SspConfig(epochs=0)), 0).log["ssa"]["loss"]
    assert loss[-1] < loss[0] - 0.3


def test_ssp_makes_the_student_agree_with_its_pseudo_labels(model: Backbone) -> None:
    windows = target().windows
    before = predict_logits(model, windows)
    labels = before.argmax(1)
    stage = SspConfig(epochs=20, learning_rate=1e-3, confidence=0, confident_share=0, ema=1.0)
    config = EmgupConfig(batch_norm="frozen", ssa=SsaConfig(epochs=0), ssp=stage)
    after = predict_logits(adapt(model, target(), config, 0).model, windows)
    assert F.cross_entropy(after, labels) < F.cross_entropy(before, labels) - 0.1


def test_a_user_without_confident_windows_keeps_the_source_weights(model: Backbone) -> None:
    config = EmgupConfig(ssa=SsaConfig(epochs=0), ssp=SspConfig(confidence=1.0, fallback_confidence=1.0))
    result = adapt(model, target(), config, 0)
    assert not changed(model, result.model, "")
    assert result.log["ssp"]["skipped"] > 0


def test_too_few_windows_for_the_prediction_task_is_an_error_not_a_silent_skip(model: Backbone) -> None:
    config = EmgupConfig(ssa=SsaConfig(future_windows=8))
    with pytest.raises(ValueError, match="future_windows"):
        adapt(model, target(), config, 0)
