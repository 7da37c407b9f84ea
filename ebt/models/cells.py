"""Models of cells: the cells of a context are given, or free and of one of a few classes.

The bidirectional EBT has one simplex per free cell. Its twins have no energy: a feed-forward and looped transformers.
Shapes: B contexts, C cells, V classes, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ebt.errors import InputError
from ebt.models.base import HubModel, Prediction, ThinkingModel
from ebt.models.configuration import TWINS, NetworkFields, ThinkingFields
from ebt.models.thinking import Thinking
from ebt.nn import EBTEncoder, EncoderLandscape, Transformer
from ebt.nn.blocks import Relations
from ebt.thinking import Geometry, LatentSimplex, StepSize, Thought


class CellsConfig(ThinkingFields):
    """Configuration of an EBT of cells.

    Args:
        space: See ``ThinkingFields``.
        latent: Whether each cell carries a latent vector through the descent (``ebt.nn.encoder.LatentLandscape``). Needs space
            restart and head bilinear.
        **kwargs: See ``ThinkingFields``.
    """

    unused = ("anchor", "scale_inputs", "rope_theta", "mean_from")

    def __init__(self, space: str = "restart", latent: bool = False, **kwargs: Any) -> None:
        self.latent = latent
        super().__init__(space=space, **kwargs)
        needed = {"space": "restart", "head": "bilinear", "input_gradient": True}
        for name, value in needed.items():
            if latent and getattr(self, name) != value:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}, but latent vectors need {value!r}: change {name} or latent"
                )

    def make_geometry(self, *args: Any, **kwargs: Any) -> Geometry:
        return LatentSimplex(*args, **kwargs) if self.latent else super().make_geometry(*args, **kwargs)


class CellsTwinConfig(NetworkFields):
    """Configuration of a transformer of cells. ``loop``: none (feed-forward), prediction (fed back), hidden (the state is
    carried) or recursive (an answer and a latent state in turns, with ``inner`` updates of the state per update of the
    answer)."""

    unused = (*TWINS, "rope_theta")

    def __init__(self, loop: str = "none", inner: int = 6, **kwargs: Any) -> None:
        if loop not in ("none", "prediction", "hidden", "recursive"):
            raise InputError(f"loop is {loop!r}: choose one of none, prediction, hidden, recursive")
        if loop != "recursive":
            self.refuse({"inner": inner}, {"inner": 6}, ("inner",))
        self.loop, self.inner = loop, inner
        super().__init__(**kwargs)


class Cells:
    """What a problem knows about its cells: a base class of its models. Contexts and answers are (B, C)."""

    TABLE: ClassVar[str] = "classes"
    """Attribute that holds the embeddings of the classes."""

    @staticmethod
    def free(context: Tensor) -> Tensor:
        """Return the mask of the cells to predict."""
        raise NotImplementedError

    @staticmethod
    def classes(answer: Tensor) -> Tensor:
        """Return the classes (0 to V - 1) of the free cells of answers. Other cells may have any value."""
        raise NotImplementedError

    @staticmethod
    def fill(context: Tensor, classes: Tensor) -> Tensor:
        """Return the answers: the classes of the free cells, and what is given elsewhere."""
        raise NotImplementedError


class EBTForCells(Cells, ThinkingModel):
    """One simplex per free cell. The energy of an answer is the sum over its cells.

    Args:
        config: Configuration of the model.
        embedding: Embeds contexts (B, C) as (B, C, D).
        classes: Number of classes V.
        relations: Attention biases between cells.
    """

    _keep_in_fp32_modules_strict: ClassVar = [*ThinkingModel._keep_in_fp32_modules_strict, "latent_ratio"]

    def __init__(self, config: Any, embedding: nn.Module, classes: int, relations: Relations | None) -> None:
        super().__init__(config)
        self.embedding = embedding
        table = nn.Embedding(classes, config.dim)
        if config.head_init == "unit":  # as small as the twin's head: the end of a warm start then does not disturb the blocks
            nn.init.normal_(table.weight, std=config.dim**-0.5)
        setattr(self, self.TABLE, table)
        self.network = EBTEncoder(config.network(), config.energy_scale, relations, config.latent)
        self.step_size = StepSize(config.step_size, config.learn_step_size)
        if config.latent:
            self.latent_ratio = StepSize(1.0, config.learn_step_size)
        self.post_init()

    def landscape(self, context: Tensor) -> EncoderLandscape:
        """Return the energy of answers to contexts (B, C)."""
        return self.network.encode(self.embedding(context), free=self.free(context))

    def geometry(self) -> Geometry:
        """One part per cell, one prediction per context."""
        latent = {"ratio": self.latent_ratio()} if self.config.latent else {}
        return self.config.make_geometry(1, getattr(self, self.TABLE).weight, self.config.input_gradient, **latent)

    def parts(self, context: Tensor) -> tuple[int, ...]:
        return tuple(context.shape)

    def answer(self, context: Tensor, thought: Thought, how: Thinking) -> Tensor:
        """Return answers (B, C): what is given, and the winner's classes elsewhere."""
        return self.fill(context, thought.geometry.decide(thought.state))

    def forward(self, context: Tensor, **options: Any) -> Prediction:
        """Answer contexts (B, C). For the options see ``think``."""
        thought = self.think(context, **options)
        return Prediction(thought.answer, thought.energy, thought.steps)


class CellsTransformer(Cells, HubModel):
    """The same blocks without an energy: one pass, or a loop with tied weights that feeds back its prediction or state.

    ``recursive`` follows the tiny recursive model (Jolicoeur-Martineau 2025). An answer y and a latent state z are carried from
    iteration to iteration as constants. Each iteration updates ``z = f(x + y + z)`` ``inner`` times, then ``y = f(y + z)``.

    Args:
        config: Configuration of the model.
        embedding: Embeds contexts (B, C) as (B, C, D).
        classes: Number of classes V.
        relations: Attention biases between cells.
    """

    def __init__(self, config: Any, embedding: nn.Module, classes: int, relations: Relations | None) -> None:
        super().__init__(config)
        self.embedding = embedding
        setattr(self, self.TABLE, nn.Embedding(classes, config.dim) if config.loop == "prediction" else None)
        self.network = Transformer(config.network(), relations)
        self.head = nn.Linear(config.dim, classes, bias=False)
        nn.init.normal_(self.head.weight, std=config.dim**-0.5)
        self.post_init()

    @property
    def passes(self) -> int:
        """Number of forward passes of the blocks per iteration."""
        return self.config.inner + 1 if self.config.loop == "recursive" else 1

    def predict(self, context: Any, iterations: int = 1) -> Tensor:
        """Return answers (B, C) after the last iteration."""
        context = self.prepared(context)
        return self.fill(context, self(context, iterations)[-1].argmax(-1))

    def forward(self, context: Tensor, iterations: int = 1, burn_in: int = 0) -> list[Tensor]:
        """Return the logits (B, C, V) after each iteration, ``burn_in`` others without gradients first. Without a loop there is
        only one. In training mode, contexts are not checked."""
        context = context if self.training else self.prepared(context)
        given, loop = self.embedding(context), self.config.loop
        carried = [torch.zeros_like(given)] * (2 if loop == "recursive" else 1)
        logits, learns = [], torch.is_grad_enabled()
        for index in range(burn_in + iterations if loop != "none" else 1):
            with torch.set_grad_enabled(learns and index >= burn_in):
                output, *carried = (
                    self._recurse(given, *carried) if loop == "recursive" else self._loop(context, given, *carried)
                )
            logits.append(output)
        return logits[burn_in:]

    def _loop(self, context: Tensor, given: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.network(given + carried)
        logits, table = self.head(hidden), getattr(self, self.TABLE)
        return logits, hidden if table is None else self.free(context).unsqueeze(-1) * (logits.softmax(-1) @ table.weight)

    def _recurse(self, given: Tensor, answer: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        answer, latent = answer.detach(), latent.detach()
        for _ in range(self.config.inner):
            latent = self.network(given + answer + latent)
        answer = self.network(answer + latent)
        return self.head(answer), answer, latent
