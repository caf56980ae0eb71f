"""What the methods share: predictions do not depend on the mode a model was left in."""

from __future__ import annotations

import pytest
import torch

from emgup_model.backbones import Backbone, CnnConfig, build_backbone
from emgup_model.backbones.norm import Norm
from emgup_model.methods.base import embed_all, predict_logits, set_mode
from tests.model.methods.toys import CHANNELS, CLASSES, differing, toy_user, weights


@pytest.mark.parametrize("norm", ["bn", "ln"])
def test_predictions_are_made_in_eval_mode_and_every_part_gets_its_mode_back(norm: Norm) -> None:
    """BatchNorm on running statistics, no dropout: with LayerNorm only dropout would show."""
    torch.manual_seed(0)
    model = build_backbone(CnnConfig(width=8, embedding_dim=8, norm=norm, dropout=0.5), CHANNELS, CLASSES)
    set_mode(model, dropout=True, batch_statistics=False)
    modes, before = [m.training for m in model.modules()], weights(model)
    windows, _ = toy_user()
    logits = predict_logits(model, windows)
    assert [m.training for m in model.modules()] == modes
    assert not differing(before, weights(model))
    model.train()
    assert torch.equal(predict_logits(model, windows), logits)
    assert not differing(before, weights(model))
    with torch.no_grad():
        assert torch.allclose(model.eval()(windows.batch()), logits, atol=1e-5)


def test_embeddings_are_made_in_eval_mode_too(trained: Backbone) -> None:
    windows, _ = toy_user()
    logits, before = predict_logits(trained, windows), weights(trained)
    z, again = embed_all(trained.train(), windows)
    assert torch.allclose(again, logits, atol=1e-5)
    assert z.shape == (len(windows), trained.embedding_dim)
    assert not differing(before, weights(trained))
