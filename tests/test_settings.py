"""No setting is accepted and does nothing: each changes what is built, thought or trained, or is refused by its name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import trainings
from small_models import QUIET
from torch import Tensor, nn

from ebt.errors import InputError
from ebt.models.base import HubModel, ThinkingModel
from ebt.models.cells import EBTForCells
from ebt.models.configuration import THINKING, ThinkingFields
from ebt.models.thinking import Thinking
from ebt.nn import NetworkConfig
from ebt.problems.folder import save_folder
from ebt.problems.images.task import DenoisingNetwork, DenoisingTask
from ebt.problems.language.task import LanguageNetwork, LanguageTask
from ebt.problems.mazes.generator import generate
from ebt.problems.mazes.task import MazeNetwork, MazeTask
from ebt.problems.registry import models
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.problems.video.task import VideoNetwork, VideoTask
from ebt.thinking import Euclidean, Recipe, loss
from ebt.training.cells import CellsNetwork
from ebt.training.model_task import Network
from ebt.training.optimisation import Optimisation
from ebt.training.task import ThinkingTask

Settings = dict[str, Any]
SIZES: Settings = {"layers": 1, "dim": 8, "heads": 2}
THINKS: Settings = {"steps": 3, "candidates": 2, "noise": 0.2}
TEXT: Settings = {"vocab_size": 7, "context_length": 6}
IMAGES: Settings = {"num_channels": 1, "image_size": 8, "patch_size": 4}
VIDEO: Settings = {"frame_dim": 6, "context_length": 6}
MODEL: dict[str, Settings] = {
    "ebt": {**TEXT, **THINKS},
    "ebt_transformer_pp": TEXT,
    "ebt_sudoku": {"board": 4, **THINKS},
    "ebt_sudoku_transformer": {"board": 4, "loop": "recursive"},
    "ebt_mazes": THINKS,
    "ebt_mazes_transformer": {"loop": "recursive"},
    "ebt_images": {**IMAGES, **THINKS},
    "ebt_dit_images": IMAGES,
    "ebt_video": {**VIDEO, **THINKS},
    "ebt_video_transformer": VIDEO,
}
"""Fields of the models that are compared."""
RECORDED = ("context_length", "encoding")
"""What configurations tell of the data, which no model depends on."""
CONDITIONED: Settings = {"conditioning": "candidate", "conditioned_steps": 2}
MEAN: Settings = {"rule": "mean"}
OTHER: dict[str, tuple[Any, Settings]] = {
    "size": ("nano", {"layers": None, "dim": None, "heads": None}),
    "layers": (2, {}),
    "dim": (16, {}),
    "heads": (1, {}),
    "block": ("llama", {"block": "dit"}),
    "ffn_dim": (12, {}),
    "kv_heads": (1, {}),
    "conditioning": ("none", {"conditioning": "modulation"}),
    "conditioned_steps": (3, CONDITIONED),
    "anchor": ("token", {}),
    "head": ("bilinear", {"head": "linear"}),
    "head_init": ("xavier", {}),
    "scale_inputs": (True, {"scale_inputs": False}),
    "norm_eps": (0.1, {}),
    "rope_theta": (3.0, {}),
    "space": ("mirror", {}),
    "update": ("momentum", {}),
    "step_size": (0.5, {}),
    "learn_step_size": (False, {}),
    "energy_scale": (3.0, {}),
    "input_gradient": (False, {}),
    "thinking": ({"steps": 2}, {"steps": None}),
    "steps": (2, {}),
    "candidates": (3, {}),
    "rule": ("highest", {}),
    "noise": (0.7, {}),
    "noise_steps": (1, {}),
    "step_size_scale": (0.5, {}),
    "clamp": (1e-3, {}),
    "tolerance": (1e9, {}),
    "stop": ("budget(1)", {}),
    "start_std": (0.3, {}),
    "seed": (5, {}),
    "mean_from": (3, MEAN),
    "vocab_size": (9, {}),
    "context_length": (8, {}),
    "recipe": ({"gradients": "detached"}, {}),
    "tied_candidates": (True, {}),
    "board": (6, {}),
    "rules": (True, {}),
    "latent": (True, {"head": "bilinear", "space": "restart"}),
    "loop": ("hidden", {}),
    "inner": (2, {}),
    "num_channels": (3, {}),
    "image_size": (12, {}),
    "patch_size": (2, {}),
    "noise_level": (0.5, {}),
    "noise_levels": (50, {}),
    "frame_dim": (5, {}),
    "noise_in": ("view", {}),
    "encoding": ({"size": 8}, {}),
    "candidate_noise": (0.7, {"candidates": 2}),
    "kind": ("ebt", {}),
}
"""Another value of each field, and what must be set beside it in both models that are compared."""
SPACE = {
    "ebt": "mirror",
    "ebt_sudoku": "compact-mirror",
    "ebt_mazes": "compact-mirror",
    "ebt_video": "euclidean",
    "ebt_images": "test_settings.Doubled",
}
Seen = list[Tensor]


class Doubled(Euclidean):
    """A geometry of one's own: the network sees everything twice as large."""

    def view(self, state: Tensor) -> Tensor:
        return 2 * super().view(state)


def draw(model: nn.Module) -> None:
    """Fresh energies are flat."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5


def context(model: HubModel) -> Tensor:
    config, generator = model.config, torch.Generator().manual_seed(2)
    if "sudoku" in config.model_type:
        return torch.arange(config.board**2).remainder(3).clamp(max=1).unsqueeze(0)
    if "mazes" in config.model_type:
        return torch.from_numpy(generate(7, 1).mazes).long().flatten(1)
    if "images" in config.model_type:
        return torch.randn(1, config.num_channels, config.image_size, config.image_size, generator=generator)
    if "video" in config.model_type:
        return torch.randn(2, 4, config.frame_dim, generator=generator)
    return torch.randint(7, (2, 5), generator=generator)


def behaviour(model: Any) -> Iterator[Tensor]:
    """What a model starts from, what it thinks, and how it would learn, each found when it is asked for."""
    begun = [*model.state_dict().values(), torch.tensor([parameter.requires_grad for parameter in model.parameters()])]
    yield from [tensor.clone() for tensor in begun]
    draw(model)
    given, kind = context(model.eval()), model.config.model_type
    if not isinstance(model, ThinkingModel):
        yield from _answers(model, given)
        return
    thought = model.think(given)
    assert thought.candidates is not None
    yield from (*thought.candidates.states, thought.energies, thought.steps, thought.answer)
    yield from _slopes(model, given)
    if kind == "ebt":
        yield model(given).logits.detach()
        outcome = model.train()(given, labels=given, generator=torch.Generator().manual_seed(3)).loss
        yield from (outcome.detach(), *_gradients(model, outcome))
    if kind == "ebt_images":
        free = torch.zeros(1, 1, *given.shape[-2:], dtype=torch.bool).index_fill(3, torch.tensor([0, 1]), True)
        yield model.infill(given, free, generator=torch.Generator().manual_seed(3))


def _answers(model: Any, given: Tensor) -> Seen:
    with torch.no_grad():
        if model.config.model_type in ("ebt_sudoku_transformer", "ebt_mazes_transformer"):
            return list(model(given, 2))
        if model.config.model_type == "ebt_dit_images":
            return [model.denoise(given), model(given, torch.tensor([3]))]
        output = model(given)
    return [output if isinstance(output, Tensor) else output.logits]


def _slopes(model: Any, given: Tensor) -> Seen:
    geometry, generator = model.geometry(), torch.Generator().manual_seed(3)
    start = model.first(given)
    parts, target = model.parts(given), given
    if isinstance(model, EBTForCells):
        target = torch.zeros(parts, dtype=torch.long)
    how = {"geometry": geometry, "update": model.update(), "generator": generator}
    start = geometry.start(parts, 1.0, generator) if start is None else start
    return _gradients(model, loss(model.landscape(given), target, start=start, step_size=model.step_size, **how))


def _gradients(model: nn.Module, outcome: Tensor) -> Seen:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(outcome, learning, allow_unused=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


def alike(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    """Whether all is the same. At the first difference, nothing more is found."""
    pairs = zip_longest(one, other)
    return all(a is not None and b is not None and a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def given(*parts: Settings) -> Settings:
    """Settings, of which None leaves one out."""
    joined = {name: value for part in parts for name, value in part.items()}
    return {name: value for name, value in joined.items() if value is not None}


def names(config_class: type) -> list[str]:
    """All fields of a configuration: arguments of its constructors, and what these take by name."""
    found = [field.name for field in fields(NetworkConfig)]
    found += THINKING if issubclass(config_class, ThinkingFields) else ()
    for kind in config_class.__mro__:
        if kind.__module__.startswith("ebt.") and "__init__" in vars(kind):
            found += [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "kwargs")]
    return sorted(set(found))


FIELDS = [(kind, name) for kind, model in models().items() for name in names(model.config_class)]


def another(kind: str, name: str) -> tuple[Any, Settings]:
    """Another value of a field, and the settings that both have."""
    value, beside = OTHER[name]
    value = SPACE.get(kind, value) if name == "space" else value
    if name == "tied_candidates" and kind == "ebt_video":
        beside = {"frame_dim": 8}
    if name in ("mean_from", "conditioning") and "transformer" in kind:
        beside = {}
    if name == "mean_from" and kind != "ebt":
        beside = {}
    if name == "conditioning" and not beside:
        value = "modulation"
    if name in models()[kind].config_class.unused:
        beside = {}
        value = "bilinear" if name == "head" else value
    return value, given(SIZES, MODEL[kind], beside)


@cache
def plain(kind: str, settings: tuple[tuple[str, Any], ...]) -> Seen:
    return [*made(kind, dict(settings))]


def made(kind: str, settings: Settings) -> Iterator[Tensor]:
    torch.manual_seed(0)
    return behaviour(models()[kind](models()[kind].config_class(**settings)))


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_field_of_a_configuration_counts(kind: str, name: str) -> None:
    value, settings = another(kind, name)
    config_class = models()[kind].config_class
    if name in config_class.unused:
        with pytest.raises(InputError, match=name):
            config_class(**{**settings, name: value})
    elif name in RECORDED:
        assert getattr(config_class(**{**settings, name: value}), name) != getattr(config_class(**settings), name)
    else:
        assert not alike(plain(kind, tuple(settings.items())), made(kind, {**settings, name: value}))


@pytest.mark.parametrize("name", THINKING)
@pytest.mark.parametrize("kind", SPACE)
def test_every_thinking_option_of_a_call_counts(kind: str, name: str) -> None:
    value, settings = another(kind, name)
    model: Any = models()[kind](models()[kind].config_class(**settings))
    draw(model.eval())
    if name in model.config.unused:
        with pytest.raises(InputError, match=name):
            model.think(context(model), Thinking(**{**THINKS, name: value}))
        return
    seen = []
    for options in ({}, {name: value}):
        thought = model.think(context(model), **options)
        how = model.how(**options)
        answer = model.logits(thought, how) if kind == "ebt" else thought.answer
        seen.append([*thought.candidates.states, thought.energies, thought.steps, answer])
    assert not alike(*seen)


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("ebt", {"conditioned_steps": 2}, "conditioned_steps"),
        ("ebt", {"update": "momentum", "recipe": {"rows_at_once": 2}}, "rows_at_once"),
        ("ebt_sudoku", {"rule": "mean"}, "rule"),
        ("ebt_video", {"rule": "mean"}, "rule"),
        ("ebt_sudoku_transformer", {"loop": "none", "inner": 2}, "inner"),
        ("ebt_dit_images", {"conditioning": "prefix"}, "conditioning"),
    ],
)
def test_settings_that_do_nothing_together_are_refused(kind: str, settings: Settings, named: str) -> None:
    with pytest.raises(InputError, match=named):
        models()[kind].config_class(**given(SIZES, MODEL[kind], settings))


# Tasks

TWINS = {
    LanguageNetwork: "transformer_pp",
    SudokuNetwork: "recursive",
    MazeNetwork: "recursive",
    DenoisingNetwork: "dit",
    VideoNetwork: "transformer_pp",
}
TASKS: dict[type[Network], Any] = {
    LanguageNetwork: LanguageTask,
    SudokuNetwork: SudokuTask,
    MazeNetwork: MazeTask,
    DenoisingNetwork: DenoisingTask,
    VideoNetwork: VideoTask,
}
NETWORK_SPACE = {
    LanguageNetwork: "mirror",
    SudokuNetwork: "mirror",
    MazeNetwork: "mirror",
    VideoNetwork: "euclidean",
    DenoisingNetwork: SPACE["ebt_images"],
}
REPLAY: Settings = {"replay_size": 4, "replay_fraction": 0.5}
LANDSCAPES: Settings = {"landscapes": 2, "min_steps": 2}
RECIPE: dict[str, tuple[Any, Settings]] = {
    "min_steps": (3, {}),
    "max_steps": (6, {}),
    "landscapes": (2, {}),
    "repeated": ("last", LANDSCAPES),
    "gradients": ("detached", {}),
    "loss": ("last", {}),
    "step_size_spread": (2.0, {}),
    "noise": (0.5, {}),
    "start_std": (0.4, {}),
    "clamp": (1e-3, {}),
    "replay_size": (1, REPLAY),
    "replay_fraction": (1.0, REPLAY),
    "warm_start": (0.5, {}),
    "burn_in": (8, {}),
    "burn_in_start": (0.5, {"burn_in": 8}),
    "ranking": (0.5, {}),
    "second_order": ("central", {}),
    "nudge": (0.3, {"second_order": "central"}),
    "rows_at_once": (1, {}),
}
"""Another value of each field of a recipe."""


def task_of(network: Network, recipe: Recipe) -> Any:
    """A task with its model; as training begins."""
    task: Any = TASKS[type(network)](network, recipe=recipe)
    shape: dict[type, tuple[Any, ...]] = {
        LanguageNetwork: (7, 6),
        SudokuNetwork: (4,),
        MazeNetwork: (),
        VideoNetwork: (6, 6, {}),
    }
    torch.manual_seed(0)
    if isinstance(network, DenoisingNetwork):
        task.model = network.build(8, 1, task.level, task.steps, recipe)
    else:
        task.model = network.build(*shape[type(network)], recipe, task.steps)  # type: ignore[attr-defined]
    task.budget = lambda: 0.0
    return task


def batch_of(task: ThinkingTask) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    if isinstance(task, LanguageTask):
        words = torch.randint(7, (3, 6), generator=generator)
        return {"input_ids": words[:, :-1], "targets": words[:, 1:]}
    if isinstance(task, SudokuTask):
        solution = torch.randint(1, 5, (3, 16), generator=generator)
        return {"puzzle": solution * torch.randint(2, (3, 16), generator=generator), "solution": solution}
    if isinstance(task, MazeTask):
        mazes, paths = (torch.from_numpy(part).long().flatten(1) for part in generate(7, 3, 4))
        return {"maze": mazes, "path": paths}
    if isinstance(task, VideoTask):
        return {"frames": torch.randn(3, 5, 6, generator=generator)}
    return {"image": torch.randn(3, 1, 8, 8, generator=generator)}


@cache
def plainly_trained(network_class: type[Network], kind: str, settings: tuple[tuple[str, Any], ...]) -> Seen:
    with torch.random.fork_rng():  # the other training is under way
        return [*training(task_of(base(network_class, kind=kind), Recipe(**dict(settings))))]


@cache
def plainly_built(network_class: type[Network], settings: tuple[tuple[str, Any], ...], recipe: Recipe) -> Seen:
    return [*behaviour(task_of(base(network_class, **dict(settings)), recipe).model)]


def training(task: Any) -> Iterator[Tensor]:
    """Losses and gradients of two batches, the second with what is replayed, and how many rows the network sees at once."""
    draw(task.model)
    rows, network = [], getattr(task.model, "network", None)
    if hasattr(network, "energy"):
        energy = network.energy
        network.energy = lambda x, y, *rest, **more: (rows.append(len(x)), energy(x, y, *rest, **more))[1]
    for _ in range(2):
        outcome = task.learn_and_remember(batch_of(task)).loss
        yield from (outcome.detach(), *_gradients(task.model, outcome))
    yield torch.tensor(rows)


def base(network_class: type[Network], **settings: Any) -> Network:
    head = {} if settings.get("kind", "ebt") != "ebt" else {"head": "bilinear"}
    patches = {"patch_size": 4} if network_class is DenoisingNetwork else {}
    return network_class(**given(SIZES, head, patches, settings))


@pytest.mark.parametrize("name", [field.name for field in fields(Recipe)])
@pytest.mark.parametrize("kind", ["ebt", "twin"])
@pytest.mark.parametrize("network_class", TASKS)
def test_every_field_of_a_recipe_counts(network_class: type[Network], kind: str, name: str) -> None:
    kind = "ebt" if kind == "ebt" else TWINS[network_class]
    network, (value, beside) = base(network_class, kind=kind), RECIPE[name]
    plain = {"min_steps": network.recipe.min_steps, "max_steps": 3, "start_std": network.recipe.start_std}
    if kind != "ebt":
        beside, plain = {}, {field.name: getattr(network.recipe, field.name) for field in fields(Recipe)}
        plain |= REPLAY if name.startswith("replay") else {"max_steps": 6} if name == "min_steps" else {}
        plain |= {"second_order": "central"} if name == "nudge" else {"burn_in": 8} if name == "burn_in_start" else {}
    other = {**plain, **beside, name: value}
    try:
        changed = training(task_of(network, Recipe(**other)))
        first = next(changed)
    except InputError as error:
        assert name in str(error)  # noqa: PT017
        looping = ("min_steps", "max_steps", "loss", "burn_in", "burn_in_start")
        refused = kind != "ebt" and not (kind in network.looping and name in looping)
        assert refused or name in network.unused_recipe or (name == "warm_start" and not TASKS[network_class].warm_starts)
    else:
        before = plainly_trained(network_class, kind, tuple({**plain, **beside}.items()))
        assert not alike(before, chain([first], changed))


NETWORKS = [(network, kind, field.name) for network in TWINS for kind in ("ebt", TWINS[network]) for field in fields(network)]


def test_rows_at_once_needs_an_update_without_a_memory() -> None:
    task = task_of(base(SudokuNetwork, update="momentum(0.3)"), Recipe(rows_at_once=1))
    with pytest.raises(InputError, match="rows_at_once"):
        task.configure_model()


@pytest.mark.parametrize(("network_class", "kind", "name"), NETWORKS)
def test_every_field_of_a_network_counts(network_class: type[Network], kind: str, name: str, tmp_path: Path) -> None:
    value, beside = OTHER.get(name, (None, {}))
    if name == "pretrained":
        recipe = base(network_class, kind=kind).recipe
        begun = task_of(base(network_class, kind=kind, layers=2), recipe).model
        draw(begun)
        found = task_of(network_class(pretrained=str(save_folder(begun, tmp_path / "model"))), recipe).model
        assert found.training
        assert alike(begun.state_dict().values(), found.state_dict().values())
        return
    value = {"kind": TWINS[network_class] if kind == "ebt" else "ebt", "space": NETWORK_SPACE[network_class]}.get(name, value)
    if name == "head":
        value, beside = ("bilinear" if issubclass(network_class, CellsNetwork) else "linear"), {"head": None}
    if name in ("conditioning", "conditioned_steps"):
        value, beside = ("candidate", {}) if name == "conditioning" else (2, {"conditioning": "candidate"})
    if kind != "ebt" and name not in ("size", "kind"):
        beside = {}
    plain = {"kind": kind, **beside}
    recipe = base(network_class, kind=kind).recipe
    recipe = Recipe(2, 3, start_std=recipe.start_std) if kind == "ebt" and name != "kind" else recipe
    before = plainly_built(network_class, tuple(plain.items()), recipe)
    try:
        changed = task_of(base(network_class, **{**plain, name: value}), recipe)
    except InputError as error:
        assert name in str(error)  # noqa: PT017
        assert kind != "ebt" or name in (*network_class.unused, "inner")
    else:
        assert not alike(before, behaviour(changed.model))


OPTIMISATION = {
    "lr": 1e-4,
    "step_size_lr": 3.0,
    "betas": (0.5, 0.6),
    "weight_decay": 5.0,
    "warmup_steps": 3,
    "min_lr_ratio": 1.0,
    "clip": 1e-3,
}


def trained(**settings: Any) -> Seen:
    optimisation = Optimisation(**{"warmup_steps": 0, **settings})
    task = SudokuTask(SudokuNetwork(**SIZES, head="bilinear", head_init="xavier"), optimisation=optimisation)
    trainer = L.Trainer(**QUIET, max_steps=3, limit_val_batches=0)
    trainer.fit(task, datamodule=trainings.boards(8))
    return [tensor.clone() for tensor in task.state_dict().values()]


@pytest.mark.parametrize("name", [field.name for field in fields(Optimisation)])
def test_every_field_of_an_optimisation_counts(name: str) -> None:
    assert not alike(_trained(), trained(**{name: OPTIMISATION[name]}))


@cache
def _trained() -> Seen:
    return trained()
