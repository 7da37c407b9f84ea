"""Tasks for the library's models: EBTs and their twins without an energy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.models.base import HubModel, ThinkingModel
from ebt.models.exploration import Explored
from ebt.models.thinking import SPACES, UPDATES, Thinking, named
from ebt.nn import Anchor, Conditioning, Head, HeadInit, network_config
from ebt.thinking import Energy, Geometry, Recipe, Simplex, StepSize, Update, mean_loss
from ebt.training.compiling import NOTHING, compile_parts, graphs
from ebt.training.sharding import Sharded
from ebt.training.task import RECIPE, Batch, Outcome, ThinkingTask

_SIZES = ("size", "layers", "dim", "heads", "kv_heads", "ffn_dim")
_LOOPING = ("min_steps", "max_steps", "loss", "burn_in", "burn_in_start")


@dataclass(frozen=True)
class Network:
    """Size of a network and thinking options of an EBT. None selects the model's default."""

    size: str = "micro"
    """Size preset: nano or micro; the paper's xxs, xs, small, medium, large or xl; or llama-xxs to llama-xl, the same with the
    inner width of Llama 2."""
    layers: int | None = None
    dim: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    """Number of heads of keys and values, shared by several heads of queries."""
    ffn_dim: int | None = None
    """Inner width of the feed-forward layers. The default belongs to the size."""
    space: str | None = None
    """Candidate space: a name (for text, of ``ebt.models.thinking.SPACES``) or your own geometry class."""
    update: str | None = None
    """Update rule: a name of ``ebt.models.thinking.UPDATES`` or your own class. The default belongs to the space."""
    step_size: float | None = None
    """Initial step size alpha."""
    learn_step_size: bool | None = None
    candidates: int | None = None
    """Default number of candidates per prediction after training."""
    step_size_scale: float | None = None
    """Factor on the learned step size alpha after training."""
    candidate_noise: float | None = None
    """Standard deviation of Langevin noise after training, for all candidates except the first."""
    input_gradient: bool | None = None
    """Whether the candidate embedding also gets gradients through the network's input. Default: yes, but for text with more
    than 16,384 tokens."""
    conditioning: Conditioning | None = None
    """How the network is conditioned on the step index."""
    conditioned_steps: int | None = None
    """Number of distinct step indices. Default: the recipe's maximum number of steps."""
    anchor: Anchor | None = None
    """Input of a prediction's stream in addition to its candidate, for language models."""
    head: Head | None = None
    """Energy head."""
    head_init: HeadInit | None = None
    """Initialisation of the energy head."""
    pretrained: str | None = None
    """Model to start from instead of fresh weights: a model or run folder, or the name of a bundled model. It determines the
    network; settings that are given beside it must agree with it."""

    spaces: ClassVar[Collection[str]] = tuple(SPACES)
    unused: ClassVar[tuple[str, ...]] = ()
    """Fields that EBTs of this problem do not use."""
    recipe: ClassVar[Recipe] = RECIPE
    """The default recipe."""
    unused_recipe: ClassVar[tuple[str, ...]] = ()
    """Recipe fields that EBTs of this problem do not use."""
    looping: ClassVar[tuple[str, ...]] = ()
    """Kinds of looped models, which take the number of iterations from the recipe."""
    loads_pretrained: ClassVar[bool] = False
    """Whether the network is built from ``pretrained``, as by ``ebt.problems.pretrained.start_from``."""

    def __post_init__(self) -> None:
        if self.pretrained is not None and not self.loads_pretrained:
            raise InputError(f"network.pretrained: {type(self).__name__} builds fresh weights only. Leave it out.")
        for name in self.unused:
            if getattr(self, name) is not None:
                raise InputError(f"network.{name}: {type(self).__name__} has no use for it. Leave it out.")
        network_config(**self.sizes())
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
        """Return the size fields of a model configuration."""
        return {name: getattr(self, name) for name in _SIZES}

    def thinking(self, recipe: Recipe, steps: int) -> dict[str, Any]:
        """Return the thinking fields of an EBT's configuration."""
        given = {name: getattr(self, name) for name in _thinking() if getattr(self, name) is not None}
        if self.conditioning not in (None, "none"):
            given.setdefault("conditioned_steps", recipe.told_steps)
        starts = {} if "start_std" in self.unused_recipe else {"start_std": recipe.start_std}
        return {**given, **starts, "clamp": recipe.clamp, "steps": steps}

    def check(self, recipe: Recipe, kind: str | None = None) -> None:
        """Check that a kind of model uses all thinking options and recipe settings that are set.

        Args:
            recipe: The training recipe.
            kind: Kind of the model. Default: ``self.kind``.

        Raises:
            InputError: A setting has no effect. The message names it.
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
                f"{', '.join(wrong)}: a model of kind {kind} does not think. Remove these settings, or choose kind ebt."
            )


def _thinking() -> list[str]:
    """Return the names of the thinking fields."""
    return [field.name for field in fields(Network) if field.name not in (*_SIZES, "pretrained")]


class ModelTask(ThinkingTask):
    """A task for a model of ``ebt.problems``, which is built when the data are known, or given to ``around``.

    Twins train with the same optimiser on the same batches. The initial weights depend only on the seed.
    """

    model: Any
    prediction_dims = 1
    bidirectional = False
    """Whether the parts of a prediction see each other."""

    def __init__(self, network: Any = None, recipe: Recipe = RECIPE, **settings: Any) -> None:
        if network is not None:
            network.check(recipe)
        super().__init__(recipe=recipe, **settings)
        self.network, self.model, self._compiled = network, None, False

    @classmethod
    def around(cls, model: HubModel, **settings: Any) -> Any:
        """Create a task for an existing model. ``settings`` are those of the constructor without ``network``.

        Raises:
            InputError: ``start_std`` of the recipe and of the model differ, or the recipe sets fields that a model without an
                energy does not use.
        """
        if isinstance(model, ThinkingModel):
            settings.setdefault("steps", model.thinking.steps)
            if (recipe := settings.get("recipe", RECIPE)).start_std != model.thinking.start_std:
                raise InputError(
                    f"recipe.start_std is {recipe.start_std} and the model's is {model.thinking.start_std}: make them equal"
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
        """Build the model for the trainer's data."""
        raise NotImplementedError(f"{type(self).__name__} must implement build()")

    def of_data(self, *names: str) -> list[Any]:
        """Return attributes of the trainer's data module.

        Raises:
            InputError: The data module is for another task.
        """
        data = self.trainer.datamodule
        if missing := [name for name in names if not hasattr(data, name)]:
            raise InputError(
                f"{type(self).__name__} needs data with {', '.join(missing)}, which {type(data).__name__} does not have: "
                "use the data module of the task (TextDataModule, SudokuDataModule, ImageDataModule, VideoDataModule), or "
                "add them to your own."
            )
        return [getattr(data, name) for name in names]

    def passes(self, batch: Batch, iterations: int, burn_in: int = 0) -> list[Tensor]:
        """Return the logits of a model without an energy after each iteration, ``burn_in`` others without gradients first."""
        raise NotImplementedError(f"{type(self).__name__} must implement passes(batch, iterations, burn_in)")

    def context(self, batch: Batch) -> Tensor:
        """Return the context of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must implement context(batch)")

    def configure_model(self) -> None:
        if self.model is None:
            dtype = torch.get_default_dtype()  # set by the trainer's precision; 16-bit weights are drawn in 32 bits and rounded
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                torch.set_default_dtype(torch.promote_types(dtype, torch.float32))
                try:
                    self.model = self.build().to(dtype)
                finally:
                    torch.set_default_dtype(dtype)
        if self.recipe.warm_start and self.thinks and self.model.config.head == "linear":
            raise InputError(
                f"recipe.warm_start is {self.recipe.warm_start}, but a linear energy head cannot score candidates that the "
                "network does not see: set network.head to bilinear, or recipe.warm_start to 0."
            )
        if self.thinks:
            self.model.config.check_rows(self.recipe)
        if self.compiles and not self._compiled:
            compile_parts(self.model, self.thinks and self._compiles_passes(self.sharded))
            self._compiled = True

    def choose_second_order(self, trainer: L.Trainer) -> None:
        super().choose_second_order(trainer)
        thinks = getattr(getattr(self, "network", None), "kind", "ebt") == "ebt"
        sharded = isinstance(trainer.strategy, Sharded)
        if self.compiles and self.bidirectional and thinks and not self._compiles_passes(sharded):
            raise InputError(NOTHING)

    def _compiles_passes(self, sharded: bool) -> bool:
        """Whether ``--compile`` compiles the energy with its gradients."""
        return self.second_order is not None and self.second_order.way == "central" and not sharded

    @property
    def thinks(self) -> bool:
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
        """Return the model's geometry. For a model without an energy, states are logits."""
        return self.model.geometry() if self.thinks else Simplex(self.prediction_dims, torch.empty(0, device=self.device))

    def update(self) -> Update:
        return self.model.update()

    def learn(self, batch: Batch, replayed: Tensor | None = None) -> Outcome:
        if self.thinks:
            return super().learn(batch, replayed)
        geometry, target = self.geometry(), self.target(batch)
        outputs = self.passes(batch, len(self.draw_schedule()), self.draw_burn_in())
        losses = torch.stack([mean_loss(geometry, logits, target) for logits in outputs])
        return Outcome(losses.mean() if self.recipe.loss == "every" else losses[-1], losses.detach())

    def log_training(self, outcome: Outcome) -> None:
        super().log_training(outcome)
        if self.compiles:  # it grows with new shapes and step indices, and then stays
            self.log("train/graphs", float(graphs(self.model)), batch_size=1)

    def explore(self, batch: Batch, steps: Sequence[int]) -> Explored | Sequence[Tensor]:
        if not self.thinks:
            return self.passes(batch, max(steps))
        return self.model.explore(self.context(batch), steps, (self.thinking().candidates,))
