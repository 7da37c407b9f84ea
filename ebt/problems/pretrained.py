"""Training that starts from a trained model instead of fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ebt.errors import InputError
from ebt.models.base import HubModel, ThinkingModel
from ebt.problems.folder import load_folder
from ebt.thinking import Recipe
from ebt.training.cells import LOOPS
from ebt.training.model_task import Network

N = TypeVar("N", bound=Network)


def start_from(
    network: N, recipe: Recipe, kinds: Mapping[str, type[HubModel]], build: Callable[[N], HubModel], **data: Any
) -> HubModel:
    """Load the model that a network starts from (``network.pretrained``), in training mode.

    The model determines the network. Settings of the network that are given beside it must agree with it, but thinking options
    become those of the model.

    Args:
        network: The network.
        recipe: Recipe of the training.
        kinds: Classes of the problem's models, by kind of network.
        build: Builds a network with fresh weights.
        data: Fields of the model's configuration that the data determine. Contexts may be shorter than the model's.

    Raises:
        InputError: There is no such model, it is of another problem, or it differs from the data, the recipe or the settings of
            the network. The message names what differs.
    """
    name = network.pretrained or ""
    model: HubModel = load_folder(name, set(kinds.values()))
    _compare(name, model, data, "use data and settings that fit it, or another model")
    if isinstance(model, ThinkingModel):
        for field in ("start_std", "clamp"):
            own, of_model = getattr(recipe, field), getattr(model.thinking, field)
            if own != of_model and field not in network.unused_recipe:
                raise InputError(f"recipe.{field} is {own} and that of {name} {of_model}: make them equal")
    own_kind = next(kind for kind, of_kind in kinds.items() if _is(model, of_kind, kind))
    like: dict[str, Any] = {"kind": own_kind, **({"latent": True} if getattr(model.config, "latent", False) else {})}
    replace(network, pretrained=None, **like).check(recipe)
    _agree(name, model, replace(network, pretrained=None), build)
    return model.train()


def _is(model: HubModel, of_kind: type[HubModel], kind: str) -> bool:
    return isinstance(model, of_kind) and LOOPS.get(kind) == getattr(model.config, "loop", None)


def _agree(name: str, model: HubModel, network: N, build: Callable[[N], HubModel]) -> None:
    """Compare the settings of a network, other than the defaults, with a model, which takes over the thinking options."""
    plain = type(network)()
    if network == plain:
        return
    with torch.device("meta"):
        described, default = build(network), build(plain).config.to_dict()
    if type(described) is not type(model):
        raise InputError(f"network.pretrained {name} is a {type(model).__name__}, not a {type(described).__name__}: set kind")
    given = {field: value for field, value in described.config.to_dict().items() if value != default.get(field)}
    options = given.pop("thinking", {})
    given = {field: value for field, value in given.items() if field in default and field != "size"}
    _compare(name, model, given, "leave these settings of the network out")
    if options and isinstance(model, ThinkingModel):
        changed = {option: value for option, value in options.items() if value != default.get("thinking", {}).get(option)}
        model.thinking = model.how(**changed)


def _compare(name: str, model: HubModel, wanted: Mapping[str, Any], remedy: str) -> None:
    """Raise ``InputError`` if fields of a model's configuration are others. Its contexts may be longer."""
    wrong = []
    for field, value in wanted.items():
        found = getattr(model.config, field)
        if found < value if field == "context_length" else found != value:
            wrong.append(f"{field} {found}, not {value}")
    if wrong:
        raise InputError(f"network.pretrained {name} has {', '.join(wrong)}: {remedy}")
