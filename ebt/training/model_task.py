"""Tasks around the library's own models: EBTs, which think, and their twins without an energy, trained alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.models.base import HubModel, ThinkingModel
from ebt.models.exploration import Explored
from ebt.models.thinking import SPACES, UPDATES, Thinking, named
from ebt.nn import Anchor, Conditioning, Head, HeadInit, network_config
from ebt.thinking import Energy, Geometry, Recipe, Simplex, StepSize, Update, mean_loss
from ebt.training.compiling import compile_parts
from ebt.training.task import RECIPE, Batch, Outcome, ThinkingTask

_SIZES = ("size", "layers", "dim", "heads", "ffn_dim")
_LOOPING = ("min_steps", "max_steps", "loss")


@dataclass(frozen=True)
class Network:
    """Size of a network, and how an EBT thinks; what is null is the model's default."""

    size: str = "micro"
    """A preset by name: nano, micro, xxs, xs, small, medium, large, xl."""
    layers: int | None = None
    dim: int | None = None
    heads: int | None = None
    ffn_dim: int | None = None
    space: str | None = None
    """Candidate space by name (of words, ``ebt.models.thinking.SPACES``), or the class of a geometry of your own."""
    update: str | None = None
    """How candidates move (``ebt.models.thinking.UPDATES``, or a class of your own); the space's own update by default."""
    step_size: float | None = None
    """alpha at the start of training."""
    learn_step_size: bool | None = None
    candidates: int | None = None
    """Candidates per prediction of the finished model, unless a call says otherwise."""
    step_size_scale: float | None = None
    """alpha of thinking after training, as a multiple of the learned one."""
    candidate_noise: float | None = None
    """Langevin noise of thinking with several candidates."""
    input_gradient: bool | None = None
    """Whether the candidates' table learns from what the network sees of candidates, too."""
    conditioning: Conditioning | None = None
    """How the network learns the step index."""
    conditioned_steps: int | None = None
    """Steps told apart; the recipe's largest number by default."""
    anchor: Anchor | None = None
    """What a prediction's stream starts from besides its candidate; language models only."""
    head: Head | None = None
    """How the energy is read off."""
    head_init: HeadInit | None = None
    """The first weights of the head."""

    spaces: ClassVar[Collection[str]] = tuple(SPACES)
    unused: ClassVar[tuple[str, ...]] = ()
    """Fields that an EBT of this problem has no use for."""
    recipe: ClassVar[Recipe] = RECIPE
    """The recipe that nobody has set."""
    unused_recipe: ClassVar[tuple[str, ...]] = ()
    """Fields of a recipe that an EBT of this problem has no use for."""
    looping: ClassVar[tuple[str, ...]] = ()
    """Kinds of models that run in a loop, for the recipe's number of iterations."""

    def __post_init__(self) -> None:
        for name in self.unused:
            if getattr(self, name) is not None:
                raise InputError(f"network.{name}: {type(self).__name__} has no use for it. Leave it out.")
        network_config(self.size, layers=self.layers, dim=self.dim, heads=self.heads, ffn_dim=self.ffn_dim)
        try:
            if self.space is not None and self.space not in self.spaces:
                named(self.space, dict.fromkeys(self.spaces), "network.space", make=False)
            if self.update is not None:
                named(self.update, UPDATES, "network.update", make=True)
        except ValueError as error:
            raise InputError(str(error)) from error
        if self.step_size is not None and not self.step_size > 0:
            raise InputError(f"network.step_size is {self.step_size}: give a positive number")

    def sizes(self) -> dict[str, Any]:
        """The fields of a model configuration that say how large it is."""
        return {name: getattr(self, name) for name in _SIZES}

    def thinking(self, recipe: Recipe, steps: int) -> dict[str, Any]:
        """The fields of an EBT's configuration that say how it thinks."""
        given = {name: getattr(self, name) for name in _thinking() if getattr(self, name) is not None}
        if self.conditioning not in (None, "none"):
            given.setdefault("conditioned_steps", recipe.told_steps)
        starts = {} if "start_std" in self.unused_recipe else {"start_std": recipe.start_std}
        return {**given, **starts, "clamp": recipe.clamp, "steps": steps}

    def check(self, recipe: Recipe, kind: str | None = None) -> None:
        """Whether a model of this kind has a use for every setting of thinking and of a recipe.

        Args:
            recipe: how it is trained.
            kind: of the model, where that is not ``self.kind``.

        Raises:
            InputError: naming those without a use.
        """
        kind = kind or getattr(self, "kind", "ebt")
        own, default = asdict(recipe), asdict(self.recipe)
        given = [name for name in own if own[name] != default[name]]
        if kind == "ebt":
            if wrong := [f"recipe.{name}" for name in given if name in self.unused_recipe]:
                raise InputError(f"{', '.join(wrong)}: {type(self).__name__} has no use for it. Leave it out.")
            return
        wrong = [f"network.{name}" for name in _thinking() if getattr(self, name) is not None]
        wrong += [f"recipe.{name}" for name in given if not (kind in self.looping and name in _LOOPING)]
        if wrong:
            raise InputError(
                f"{', '.join(wrong)}: a model of kind {kind} does not think. Drop these settings, or choose kind ebt."
            )


def _thinking() -> list[str]:
    """Fields that say how an EBT thinks."""
    return [field.name for field in fields(Network) if field.name not in _SIZES]


class ModelTask(ThinkingTask):
    """A task around a model of ``ebt.problems``, built from its settings when the data are known, or given to ``around``.

    Twins train with the same optimiser on the same batches. The initial weights depend on the seed alone.
    """

    model: Any
    prediction_dims = 1
    compiles = False
    """Whether to compile what can be (see ``ebt.training.compiling``); set before training begins."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.model = None

    @classmethod
    def around(cls, model: HubModel, **settings: Any) -> Any:
        """The task around a model of your own, ``settings`` as for the constructor without ``network``.

        Raises:
            InputError: the recipe's ``start_std`` is not the model's, or the model does not think and the recipe has other
                fields than it uses.
        """
        if isinstance(model, ThinkingModel):
            settings.setdefault("steps", model.thinking.steps)
            if (recipe := settings.get("recipe", RECIPE)).start_std != model.thinking.start_std:
                raise InputError(
                    f"recipe.start_std is {recipe.start_std} and the model's is {model.thinking.start_std}: make them one"
                )
        else:
            used = _LOOPING if getattr(model.config, "loop", "none") != "none" else ()
            own, default = asdict(settings.get("recipe", RECIPE)), asdict(RECIPE)
            if unused := [f"recipe.{name}" for name in own if own[name] != default[name] and name not in used]:
                raise InputError(f"{', '.join(unused)}: {type(model).__name__} does not think. Leave it out.")
        task = cls(**settings)
        task.model = model
        return task

    def build(self) -> HubModel:
        """The model for the data of the trainer."""
        raise NotImplementedError(f"{type(self).__name__} must implement build()")

    def of_data(self, *names: str) -> list[Any]:
        """What the trainer's data module tells of its data.

        Raises:
            InputError: it is a data module for another task.
        """
        data = self.trainer.datamodule
        if missing := [name for name in names if not hasattr(data, name)]:
            raise InputError(
                f"{type(self).__name__} needs data with {', '.join(missing)}, which {type(data).__name__} has not: "
                "choose the data module of the task (TextDataModule, SudokuDataModule, ImageDataModule, VideoDataModule), or "
                "your own that has."
            )
        return [getattr(data, name) for name in names]

    def passes(self, batch: Batch, iterations: int) -> list[Tensor]:
        """Logits of a model that does not think, after each iteration."""
        raise NotImplementedError(f"{type(self).__name__} must implement passes(batch, iterations)")

    def context(self, batch: Batch) -> Tensor:
        """What the model is given."""
        raise NotImplementedError(f"{type(self).__name__} must implement context(batch)")

    def configure_model(self) -> None:
        if self.model is None:
            dtype = torch.get_default_dtype()  # that of the trainer's precision; 16-bit weights are rounded, not drawn anew
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                torch.set_default_dtype(torch.promote_types(dtype, torch.float32))
                try:
                    self.model = self.build().to(dtype)
                finally:
                    torch.set_default_dtype(dtype)
        if self.recipe.warm_start and self.thinks and self.model.config.head == "linear":
            raise InputError(
                f"recipe.warm_start is {self.recipe.warm_start}, and a linear energy head cannot judge candidates that the "
                "network does not see: set network.head to bilinear, or recipe.warm_start to 0."
            )
        if self.thinks:
            self.model.config.check_rows(self.recipe)
        if self.compiles:
            compile_parts(self.model)
            self.compiles = False

    @property
    def thinks(self) -> bool:
        """Whether the model has an energy."""
        return isinstance(self.model, ThinkingModel)

    @property
    def alpha(self) -> StepSize:  # type: ignore[override]
        return self.model.step_size

    def thinking(self) -> Thinking:
        return self.model.thinking

    def parts(self, batch: Batch) -> tuple[int, ...]:
        return tuple(self.context(batch).shape)

    def landscape(self, batch: Batch) -> Energy:
        return self.model.landscape(self.context(batch))

    def geometry(self) -> Geometry:
        """The model's; without an energy, states are logits."""
        return self.model.geometry() if self.thinks else Simplex(self.prediction_dims, torch.empty(0, device=self.device))

    def update(self) -> Update:
        return self.model.update()

    def learn(self, batch: Batch, replayed: Tensor | None = None) -> Outcome:
        if self.thinks:
            return super().learn(batch, replayed)
        geometry, target = self.geometry(), self.target(batch)
        losses = torch.stack([mean_loss(geometry, logits, target) for logits in self.passes(batch, len(self.draw_schedule()))])
        return Outcome(losses.mean() if self.recipe.loss == "every" else losses[-1], losses.detach())

    def explore(self, batch: Batch, steps: Sequence[int]) -> Explored | Sequence[Tensor]:
        if not self.thinks:
            return self.passes(batch, max(steps))
        return self.model.explore(self.context(batch), steps, (self.thinking().candidates,))
