"""Every method on every backbone with either norm: it works, or says in one line why it has no meaning."""

from __future__ import annotations

import pytest
import torch

from emgup_model.backbones import Backbone, build_backbone
from emgup_model.errors import NotApplicableError
from emgup_model.methods import EmgupConfig, MethodConfig, adapt, base, load_method
from emgup_model.methods.base import batch_norms, predict_logits
from emgup_model.methods.ssa import SsaConfig
from emgup_model.methods.tent import norm_parameters
from tests.model.backbones.nets import SMALL
from tests.model.methods.toys import differing, short_emgup, toy_target, weights

BRIEF = {"shot": {"epochs": 2}, "shot_half": {"epochs": 2}, "tent": {"epochs": 2}, "nrc": {"epochs": 2}}


def method(name: str) -> MethodConfig:
    """The shipped method with few epochs."""
    if name == "emgup":
        return short_emgup()
    config = load_method(name)
    return config.model_copy(update=BRIEF.get(name, {}))


def net(name: str) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(SMALL[name], 4, 3).eval()


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize(
    "name", ["source_only", "emgup_paper", "emgup_bnfrozen", "emgup", "shot", "shot_half", "tent", "nrc"]
)
def test_methods_work_with_either_norm(backbone: str, name: str) -> None:
    model = net(backbone)
    before = weights(model)
    adapted = adapt(model, toy_target(), method(name), 0).model
    assert not differing(before, weights(model))
    after = weights(adapted)
    assert all(bool(torch.isfinite(t).all()) for t in after.values() if t.is_floating_point())
    if name in ("emgup_paper", "shot", "tent"):
        assert differing(before, after)


@pytest.mark.parametrize("backbone", SMALL)
def test_adabn_needs_batchnorm_and_says_so(backbone: str) -> None:
    model = net(backbone)
    if any(batch_norms(model)):
        changed = differing(weights(model), weights(adapt(model, toy_target(), load_method("adabn"), 0).model))
        assert changed
        assert all("running" in name or "num_batches" in name for name in changed)
    else:
        with pytest.raises(NotApplicableError, match="no BatchNorm") as error:
            adapt(model, toy_target(), load_method("adabn"), 0)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("backbone", [name for name in SMALL if name.endswith("ln")])
def test_without_batchnorm_the_schedules_passes_change_nothing(backbone: str) -> None:
    """What the two controls of the published schedule mean on such a network: the first is Source Only, bit by bit;
    freezing BatchNorm is no change to the schedule."""
    model = net(backbone)
    nothing = adapt(model, toy_target(), load_method("emgup_nograd"), 0).model
    assert not differing(weights(model), weights(nothing))
    literal = adapt(model, toy_target(), load_method("emgup_paper"), 0).model
    frozen = adapt(model, toy_target(), load_method("emgup_bnfrozen"), 0).model
    assert not differing(weights(literal), weights(frozen))
    largest = max(
        float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), literal.parameters(), strict=True)
    )
    assert 0 < largest < 1e-5


@pytest.mark.parametrize("backbone", [name for name in SMALL if name.endswith("bn")])
def test_with_batchnorm_they_move_its_statistics(backbone: str) -> None:
    model = net(backbone)
    moved = differing(weights(model), weights(adapt(model, toy_target(), load_method("emgup_nograd"), 0).model))
    assert moved
    assert all("running" in name or "num_batches" in name for name in moved)


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("view", ["reversed", "masked", "none"])
def test_every_second_view_moves_the_features(backbone: str, view: str) -> None:
    model = net(backbone)
    share = {"masked_share": 0.2} if view == "masked" else {}
    ssa = SsaConfig.model_validate({"epochs": 1, "learning_rate": 1e-3, "second_view": view, **share})
    config = load_method("emgup_paper")
    assert isinstance(config, EmgupConfig)
    stages = {"ssa": ssa, "ssp": config.ssp.model_copy(update={"epochs": 0})}
    adapted = adapt(model, toy_target(), config.model_copy(update=stages), 0).model
    changed = differing(weights(model), weights(adapted))
    assert any(name.endswith("weight") for name in changed)
    assert not any(name.startswith("head.") for name in changed)


@pytest.mark.parametrize("backbone", SMALL)
def test_tent_finds_the_norm_layers_of_every_backbone(backbone: str) -> None:
    model = net(backbone)
    found = {id(p) for p in norm_parameters(model)}
    names = [name for name, p in model.named_parameters() if id(p) in found]
    assert names
    assert all(p.dim() == 1 for name, p in model.named_parameters() if name in names)


def test_passes_of_any_size_predict_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, windows = net("vemg2pose-ln"), toy_target().windows
    whole = predict_logits(model, windows)
    monkeypatch.setattr(base, "MOST_VALUES", 7 * windows.signal.shape[0] * windows.window)
    assert base.at_once(windows) == 7
    torch.testing.assert_close(predict_logits(model, windows), whole)
    torch.testing.assert_close(base.embed_all(model, windows)[1], whole)
    monkeypatch.setattr(base, "MOST_VALUES", 1)
    assert base.at_once(windows) == 2
