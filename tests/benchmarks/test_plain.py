"""The plain way, which benchmarks compare with, has the losses and the gradients of the library's way."""

from __future__ import annotations

import plain
import pytest
import torch

from ebt.problems.language.configuration import EBTConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.thinking import Recipe, supervise

RECIPES = {"s1": Recipe.s1(2), "full": Recipe(2, 2, gradients="full")}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_plain_way_is_the_same_function(recipe: str) -> None:
    torch.manual_seed(0)
    config = EBTConfig(11, 8, layers=2, dim=16, heads=2, anchor="none", head="linear", start_std=0.0)
    model = EBTForCausalLM(config).double()
    torch.nn.init.normal_(model.network.head.projection.weight)
    tokens = torch.randint(0, 11, (2, 7))
    ids, target = tokens[:, :-1], tokens[:, 1:]
    settings = Recipe(**{**vars(RECIPES[recipe]), "start_std": 0.0})
    geometry = model.geometry()
    start = geometry.start(tuple(ids.shape), 0.0)
    own = supervise(model.landscape(ids), geometry, model.update(), start, target, model.step_size, settings, None, 2)
    plainly = plain.supervise_plainly(model, ids, target, settings, 2, torch.Generator())
    torch.testing.assert_close(own.losses, plainly.losses)
    if recipe == "full":  # detached logits depend on the table where detached states of D numbers do not
        gradients = [torch.autograd.grad(each.loss, list(model.parameters()), allow_unused=True) for each in (own, plainly)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other)
