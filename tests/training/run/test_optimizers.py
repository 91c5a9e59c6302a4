"""The optimiser of each parameter, and the learning rate of each step."""

import pytest
import torch
from torch import nn

from training.recipe.recipe import Optimisation
from training.run.optimizers import make_optimizers, rate_at

PARAMETERS = {
    "model.embed_tokens.weight": nn.Parameter(torch.zeros(4, 2)),
    "model.layers.0.mlp.up_proj.weight": nn.Parameter(torch.zeros(2, 2)),
    "model.layers.0.norm.weight": nn.Parameter(torch.zeros(2)),
}


def test_adamw_applies_weight_decay_to_matrices_only():
    (adamw,) = make_optimizers(Optimisation(weight_decay=0.1), PARAMETERS).values()
    decay = {each.ndim: group["weight_decay"] for group in adamw.param_groups for each in group["params"]}
    assert decay == {2: 0.1, 1: 0.0}


def test_muon_trains_only_the_matrices_of_the_layers():
    made = make_optimizers(Optimisation(optimizer="muon"), PARAMETERS)
    assert [each.shape for group in made["muon"].param_groups for each in group["params"]] == [(2, 2)]
    assert {each.shape for group in made["adamw"].param_groups for each in group["params"]} == {(4, 2), (2,)}


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.55), ("cosine", 0.55)])
def test_the_learning_rate_warms_up_is_constant_and_decays(shape, middle):
    settings = Optimisation(max_steps=100, learning_rate=0.5, warmup=0.1, decay=0.4, decay_to=0.1, decay_shape=shape)
    rates = [rate_at(settings, step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[0] == pytest.approx(0.5 / 11)
    assert set(rates[10:61]) == {0.5}
    assert rates[80] == pytest.approx(0.5 * middle)
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert 0.05 < rates[99] < 0.08
