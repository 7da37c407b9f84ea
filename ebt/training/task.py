"""The base class of all tasks: a Lightning module that trains by thinking, evaluates, logs and resumes exactly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torchmetrics import MeanMetric

from ebt.errors import InputError
from ebt.evaluation.alarms import ThinkingWarning, alarms
from ebt.models.exploration import Explored, explore
from ebt.models.thinking import Thinking
from ebt.nn.blocks import Block
from ebt.thinking import Energy, Geometry, Gradient, NonFiniteError, Recipe, StepSize, Thought, Update, supervise
from ebt.training.optimisation import Optimisation
from ebt.training.replay import ReplayBuffer
from ebt.training.second_order import SecondOrder, choose, computing_dtype
from ebt.training.sharding import Sharded, clip_gradients, full, gathered, refuse_sharding, total_norm

Batch = dict[str, Tensor]
Sums = dict[str, tuple[Tensor, Tensor]]
"""For each metric, its sum over a batch and the number of summands."""

RECIPE = Recipe()
OPTIMISATION = Optimisation()
SCHEDULE_SEED = 507_020
"""Separates the random draws shared by all processes from those of each process."""
_SHARED = "shared"
RESEEDED = (
    "The checkpoint was written with world size {}, and this run has world size {}: weights, optimiser, numbers of steps and "
    "position in the data continue, replay buffers are redistributed, and all other random draws have new seeds."
)


class ResumeWarning(UserWarning):
    """A resumed run does not continue all random states of the interrupted one."""


@dataclass(frozen=True)
class Outcome:
    """The result of one training batch."""

    loss: Tensor
    """The loss to back-propagate."""
    losses: Tensor
    """Mean loss after each step or iteration (T,), detached."""
    thought: Thought | None = None
    """The record of the descent; None for a model without an energy."""
    ranking: Tensor | None = None
    """See ``Supervised``."""


class ThinkingTask(L.LightningModule):
    """Trains a model by thinking with a recipe and an optimiser.

    A subclass sets ``alpha`` (a ``StepSize``) and implements ``landscape``, ``geometry``, ``target`` and ``parts``. Batches are
    dictionaries of tensors with rows as the first dimension. Random draws depend only on ``seed``, and the order of the data
    does not depend on them. A resumed run equals an uninterrupted one bit for bit.

    Logged in training: loss, loss_first and loss_last (after the first and the last step), gain (their difference),
    energy_first and energy_last (per prediction, before the first and the last step), steps, step_size, gradient_norm, lr;
    with ``recipe.ranking`` ranking (that loss), and with ``compiles`` graphs (the number of compiled graphs).
    Logged in evaluation, as means over all scored parts: loss (at the default number of steps), loss_at_K (after K steps),
    gain, energy_first and energy_last.

    Args:
        recipe: How candidates are optimised during training.
        optimisation: The optimiser and its schedule.
        validation_steps: Numbers of thinking steps to evaluate, in addition to ``steps``.
        steps: Default number of thinking steps in evaluation. Default: the recipe's maximum.
        seed: Seed of starts, numbers of steps, step sizes, noise and replay.
        alarm_every: Number of training batches between checks for alarms (``ebt.evaluation.alarms``).
        checkpoint_activations: Whether to keep only the inputs of blocks in training and recompute the rest in backward passes.
            By default, gradients of gradients are then central differences.
    """

    alpha: StepSize
    warm_starts = False
    """Whether the task supports ``recipe.warm_start``, that is, whether its landscapes have ``unseen()``."""
    compiles = False
    """Whether the model is compiled. Set it before training."""
    second_order: SecondOrder | None = None
    """How training takes gradients of gradients, from the start of a training on."""

    def __init__(
        self,
        recipe: Recipe = RECIPE,
        optimisation: Optimisation = OPTIMISATION,
        validation_steps: Sequence[int] = (1, 2, 3, 4, 8),
        steps: int | None = None,
        seed: int = 0,
        alarm_every: int = 100,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if any(number < 1 for number in (*validation_steps, alarm_every, 1 if steps is None else steps)) or seed < 0:
            raise InputError(
                f"validation_steps {list(validation_steps)}, steps {steps}, alarm_every {alarm_every}, seed {seed}: "
                "numbers of steps and alarm_every must be at least 1, the seed at least 0"
            )
        if recipe.warm_start and not self.warm_starts:
            raise InputError(f"recipe.warm_start is {recipe.warm_start}: {type(self).__name__} has no warm start; set it to 0")
        self.recipe, self.optimisation, self.seed, self.alarm_every = recipe, optimisation, seed, alarm_every
        self.checkpoint_activations = checkpoint_activations
        self.steps = recipe.own_steps if steps is None else steps
        self.validation_steps = tuple(sorted({1, self.steps, *validation_steps}))
        self.replay = ReplayBuffer(recipe.replay_size) if recipe.replay_size else None
        self._generators: dict[str, torch.Generator] = {}
        self._seeded_at = 0
        """Offset of the seeds of generators, so that they differ from those of earlier processes."""
        self._meters: dict[str, MeanMetric] = {}
        self._alarmed: set[str] = set()
        self.budget: Callable[[], float] | None = None
        """Returns the completed share of the training, if it has a time budget."""

    @property
    def thinks(self) -> bool:
        """Whether the model has an energy."""
        return True

    # Methods that a subclass implements

    def landscape(self, batch: Batch) -> Energy:
        """Return the energy landscape of a batch. Called once per batch."""
        raise NotImplementedError(f"{type(self).__name__} must implement landscape(batch)")

    def geometry(self) -> Geometry:
        """Return the geometry of the candidates."""
        raise NotImplementedError(f"{type(self).__name__} must implement geometry()")

    def update(self) -> Update:
        """Return the update rule of the candidates."""
        return Gradient()

    def thinking(self) -> Thinking:
        """Return the thinking options of evaluations."""
        return Thinking(self.steps, clamp=self.recipe.clamp, start_std=self.recipe.start_std)

    def target(self, batch: Batch) -> Tensor:
        """Return the targets of the candidates, one per part."""
        raise NotImplementedError(f"{type(self).__name__} must implement target(batch)")

    def parts(self, batch: Batch) -> tuple[int, ...]:
        """Return the shape (rows, *parts) of the predictions of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must implement parts(batch)")

    def measure(self, batch: Batch, state: Tensor) -> Sums:
        """Return the metrics of final states, each as a sum and a count, for one number of steps."""
        geometry, target = self.geometry(), self.target(batch)
        loss = geometry.loss(state, target)
        return {"loss": (loss.sum(), geometry.scored(target).expand_as(loss).sum())}

    def summarise(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add metrics that are computed from the means over a whole set."""
        gain = {"gain": metrics["loss_at_1"] - metrics["loss"]} if "loss_at_1" in metrics else {}
        return {**metrics, **gain}

    def learn(self, batch: Batch, replayed: Tensor | None = None) -> Outcome:
        """Run the recipe on a batch. The last n rows start from ``replayed`` (n, *P, K)."""
        generator = self.generator(self.device)
        start = self.start(batch, _rows(batch) - (0 if replayed is None else len(replayed)), generator)
        if replayed is not None:
            start = torch.cat((start, replayed.to(start)))
        landscape, schedule = self.landscape(batch), self.draw_schedule()
        recipe = self.recipe if self.second_order is None else self.second_order.of(self.recipe)
        if self.starts_warm():
            landscape, schedule = landscape.unseen(), schedule[:1]  # type: ignore[attr-defined]
            # the blocks, which see no candidate, are passed once, and their energies tell nothing about it
            recipe = replace(recipe, second_order="exact", nudge=None, ranking=0.0)
            start = torch.zeros_like(start)  # the noise of an unseen start would stay in the prediction
        thinking = self.geometry(), self.update(), start, self.target(batch), self.alpha, recipe
        backend = "auto" if not self.sharded else "plain" if self.starts_warm() else "accumulate"
        outcome = supervise(landscape, *thinking, generator, schedule, backend=backend, burn_in=self.draw_burn_in())
        return Outcome(outcome.loss, outcome.losses, outcome.thought, outcome.ranking)

    def explore(self, batch: Batch, steps: Sequence[int]) -> Explored | Sequence[Tensor]:
        """Run one descent for several numbers of steps. A model without an energy returns its states after each iteration."""
        descent = {"geometry": self.geometry(), "update": self.update(), "step_size": self.alpha(), "parts": self.parts(batch)}
        return explore(self.landscape(batch), self.thinking().but(steps=max(steps)), steps, **descent)

    def answer(self, batch: Batch) -> Tensor:
        """Return the final states after the default number of steps."""
        found = self.explore(batch, [self.steps])
        return found.at(self.steps, found.how.candidates).state if isinstance(found, Explored) else found[-1]

    def start(self, batch: Batch, rows: int, generator: torch.Generator | None) -> Tensor:
        """Return the start of the first ``rows`` rows of a batch. Random by default."""
        _, *parts = self.parts(batch)
        return self.geometry().start((rows, *parts), self.recipe.start_std, generator)

    def starts_warm(self) -> bool:
        """Whether training is in the warm start, in which the network does not see the candidates (``Recipe.warm_start``)."""
        return self.recipe.warm_start > 0 and self.progress() < self.recipe.warm_start

    def progress(self) -> float:
        """The completed share of the training, from 0 to 1."""
        return self.global_step / self.trainer.estimated_stepping_batches if self.budget is None else self.budget()

    # Random draws

    def generator(self, device: torch.device | str) -> torch.Generator:
        """Return the generator of training draws on a device; for ``shared``, the one that is equal in all processes."""
        shared = device == _SHARED
        kind, own = (_SHARED, SCHEDULE_SEED) if shared else (torch.device(device).type, self.global_rank + self._seeded_at)
        if kind not in self._generators:
            self._generators[kind] = torch.Generator("cpu" if shared else device).manual_seed(self.seed * 1_000_003 + own)
        return self._generators[kind]

    def restart_draws(self) -> None:
        """Make the next training draws those of the first update."""
        self._generators.clear()

    def draw_schedule(self) -> tuple[int, ...]:
        """Draw the step indices of a training batch. All processes draw the same, so that none waits for another."""
        return self.recipe.draw_schedule(self.generator(_SHARED))

    def draw_burn_in(self) -> int:
        """Draw the number of burn-in steps of a training batch, equal in all processes. None before ``burn_in_start``."""
        recipe = self.recipe
        if not recipe.burn_in or self.starts_warm() or (recipe.burn_in_start and self.progress() < recipe.burn_in_start):
            return 0
        return recipe.draw_burn_in(self.generator(_SHARED))

    # Training

    @property
    def kind_name(self) -> str:
        """Name of the task's class, without the one that ``fully_shard`` puts in front."""
        return next(kind for kind in type(self).__mro__ if not issubclass(kind, FSDPModule)).__name__

    @property
    def sharded(self) -> bool:
        """Whether weights are sharded across processes."""
        return self._trainer is not None and isinstance(self._trainer.strategy, Sharded)

    def setup(self, stage: str) -> None:
        self.check_strategy(self.trainer.strategy)
        if stage == "fit":
            self.choose_second_order(self.trainer)

    def check_strategy(self, strategy: Any) -> None:
        """Check that the task can be trained with a strategy of the trainer.

        Raises:
            InputError: The strategy, or a setting of the recipe with it, is not supported. The message names it.
        """
        refuse_sharding(strategy)
        sharded = isinstance(strategy, Sharded)
        if not sharded and isinstance(self, FSDPModule):
            raise InputError(
                "The weights are sharded by an earlier training: load its checkpoint or model folder, or use the same trainer."
            )
        if sharded and self.recipe.rows_at_once is not None:
            raise InputError(
                f"recipe.rows_at_once is {self.recipe.rows_at_once}, which sharded weights do not support: leave it out, and "
                "use smaller batches with trainer.accumulate_grad_batches."
            )
        for name in ("ranking", "burn_in"):
            if sharded and (value := getattr(self.recipe, name)):
                raise InputError(
                    f"recipe.{name} is {value}, which sharded weights do not support: set it to 0, or trainer.strategy to ddp."
                )

    def choose_second_order(self, trainer: L.Trainer) -> None:
        """Choose how training takes gradients of gradients with a trainer (``ebt.training.second_order.choose``)."""
        strategy, dtype = trainer.strategy, computing_dtype(trainer, self)
        sharded = isinstance(strategy, Sharded)
        how = {"compiles": self.compiles, "sharded": sharded, "checkpoints": self.checkpoint_activations}
        self.second_order = choose(self.recipe, strategy.root_device.type, dtype, **how)

    def on_fit_start(self) -> None:
        self.checkpoint_blocks()
        if self.thinks and self.second_order is not None:
            for logger in self.trainer.loggers:
                logger.log_hyperparams(self.second_order.hyperparameters())

    def checkpoint_blocks(self) -> None:
        """Set whether blocks checkpoint their activations.

        Raises:
            InputError: ``checkpoint_activations`` is true and there are no blocks.
        """
        blocks = [part for part in self.modules() if isinstance(part, Block)]
        if self.checkpoint_activations and not blocks:
            raise InputError(f"checkpoint_activations is true, but {type(self).__name__} has no ebt.nn blocks: leave it out")
        for block in blocks:
            block.gradient_checkpointing = self.checkpoint_activations

    def learn_and_remember(self, batch: Batch) -> Outcome:
        """Train on a batch together with replayed rows, and add the final states of the batch to the replay buffer."""
        whole, replayed = self._with_replay(batch)
        outcome = self.learn(whole, replayed)
        replay = None if self.starts_warm() else self.replay  # unseen candidates are not replayed
        if replay is not None and outcome.thought is not None and torch.isfinite(outcome.loss):
            replay.add({**batch, "state": outcome.thought.state[: _rows(batch)]})
        return replace(outcome, loss=outcome.loss * self._weight(whole))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with gathered(self):
            outcome = self.learn_and_remember(batch)
            if not torch.isfinite(outcome.loss):
                step = int((~torch.isfinite(outcome.losses)).nonzero()[0]) + 1 if not outcome.losses.isfinite().all() else 0
                raise NonFiniteError(
                    f"the loss after thinking step {step} at update {self.global_step + 1} is not finite. "
                    "Lower optimisation.lr or the step size, or set optimisation.clip or recipe.clamp."
                )
            self.log_training(outcome)
            if outcome.thought is not None and (batch_idx + 1) % self.alarm_every == 0 and self._warm:
                self.log("train/alarms", float(self._look_for_alarms(outcome.thought)), batch_size=1)
        return outcome.loss

    def _weight(self, batch: Batch) -> Tensor | float:
        """Return the weight that makes the trainer's mean of gradients over processes a mean over all scored parts."""
        own = self.geometry().scored(self.target(batch)).expand(self.parts(batch)).sum()
        if not (dist.is_available() and dist.is_initialized()):
            return 1.0
        everyone = own.float()
        dist.all_reduce(everyone)
        return own * dist.get_world_size() / everyone.clamp(min=1)

    def _with_replay(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """Append replayed rows to a batch, and return it with the start of these rows."""
        if self.replay is None or self.starts_warm():
            return batch, None
        count = max(1, round(self.recipe.replay_fraction * _rows(batch)))
        records = self.replay.sample(count, self.generator("cpu"))
        if records is None:
            return batch, None
        return {key: torch.cat((value, records[key].to(value))) for key, value in batch.items()}, records["state"]

    def log_training(self, outcome: Outcome) -> None:
        """Log the values of a training batch."""
        first, last = outcome.losses[0], outcome.losses[-1]
        values: dict[str, Any] = {"loss": outcome.loss.detach(), "lr": self.optimizers().param_groups[0]["lr"]}
        if len(outcome.losses) > 1:
            values |= {"loss_first": first, "loss_last": last, "gain": first - last}
        if outcome.ranking is not None:
            values["ranking"] = outcome.ranking
        if (thought := outcome.thought) is not None:
            energies = self.geometry().per_prediction
            values |= {
                "energy_first": energies(thought.energies[0]).mean(),
                "energy_last": energies(thought.energies[-1]).mean(),
                "steps": float(len(outcome.losses)),
                "step_size": self.alpha().detach(),
            }
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=1)

    def configure_optimizers(self) -> dict[str, Any]:
        updates = self.trainer.estimated_stepping_batches
        if updates == float("inf") and self.optimisation.min_lr_ratio < 1:
            raise InputError(
                f"optimisation.min_lr_ratio is {self.optimisation.min_lr_ratio}, but the number of updates is unknown: set "
                "trainer.max_steps or trainer.max_epochs, or optimisation.min_lr_ratio to 1."
            )
        if self.recipe.warm_start and updates == float("inf"):
            raise InputError("recipe.warm_start is a share of the updates: set trainer.max_steps or trainer.max_epochs.")
        optimiser = self.optimisation.optimiser(self, fused=self.trainer.precision != "16-mixed")
        second = math.ceil(self.recipe.warm_start * updates) if self.recipe.warm_start else 0  # first update after it
        schedule = {"scheduler": self.optimisation.schedule(optimiser, updates, second), "interval": "step"}
        return {"optimizer": optimiser, "lr_scheduler": schedule}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradient by its global norm.

        Raises:
            NonFiniteError: The norm is not finite. The message names a parameter.
            InputError: The trainer is configured to clip as well.
        """
        if gradient_clip_val is not None:
            raise InputError("trainer.gradient_clip_val is set: set optimisation.clip instead")
        named = [(name, parameter) for name, parameter in self.named_parameters() if parameter.grad is not None]
        norm = total_norm([parameter.grad for _, parameter in named if parameter.grad is not None])
        scaled = self.trainer.scaler is not None  # with 16-bit scaling, updates with infinite gradients are skipped
        if not scaled and not torch.isfinite(norm):
            broken = next((n for n, p in named if not full(p.grad.isfinite()).all()), "all weights together")
            raise NonFiniteError(
                f"the gradient of {broken} at update {self.global_step + 1} is not finite. "
                "Lower optimisation.lr or the step size, or set recipe.clamp."
            )
        if self.optimisation.clip is not None:
            clip_gradients([parameter for _, parameter in named], self.optimisation.clip, norm)
        self.log("train/gradient_norm", norm, batch_size=1)

    # Evaluation

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, "val", batch_idx, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate(batch, "test", batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _evaluate(self, batch: Batch, stage: str, batch_idx: int, dataloader_idx: int) -> None:
        if self.sharded and self.thinking().stops() is not None:
            raise InputError(
                "tolerance and stop are not supported with sharded weights, since processes would take different numbers of "
                "steps: leave them out, or set trainer.strategy to ddp."
            )
        # thinking needs gradients, which inference mode disables
        with torch.inference_mode(False), torch.no_grad(), gathered(self):
            batch = {key: value.clone() if value.is_inference() else value for key, value in batch.items()}
            found = self.explore(batch, self.validation_steps)
            prefix = f"{stage}/{self._set_name(stage, dataloader_idx)}"
            if isinstance(found, Explored):
                self._count_thinking(prefix, batch, found)
                if batch_idx == 0 and (self._warm or self.trainer.state.fn != "fit"):
                    alarmed = torch.tensor(float(self._look_for_alarms(found.first)))
                    self._count(prefix, {"alarms": (alarmed, torch.tensor(1))})
            elif len(found) == 1:
                self._count(prefix, self.measure(batch, found[0]))
            else:
                for step in self.validation_steps:
                    self._count(prefix, self.measure(batch, found[step - 1]), step)

    def _count_thinking(self, prefix: str, batch: Batch, found: Explored) -> None:
        for step in self.validation_steps:
            won = found.at(step, found.how.candidates)
            self._count(prefix, self.measure(batch, won.state), step)
            if step == self.steps:
                for name, energies in zip(("energy_first", "energy_last"), won.energies, strict=True):
                    each = won.geometry.per_prediction(energies)
                    self._count(prefix, {name: (each.sum(), torch.tensor(each.numel()))})

    def _count(self, prefix: str, sums: Sums, step: int | None = None) -> None:
        """Accumulate the metrics of a batch after ``step``. For the default or no step, the names have no suffix."""
        suffixes = [*([] if step is None else [f"_at_{step}"]), *([""] if step in (None, self.steps) else [])]
        for suffix in suffixes:
            for name, (total, count) in sums.items():
                meter = self._meters.setdefault(f"{prefix}{name}{suffix}", MeanMetric().to(self.device))
                if count > 0:
                    meter.update(total / count, count)

    def _report(self, stage: str) -> None:
        """Log the means over each set and all processes."""
        sets: dict[str, dict[str, Tensor]] = {}
        for path, meter in self._meters.items():
            prefix, _, name = path.rpartition("/")
            sets.setdefault(prefix, {})[name] = meter.compute()
        self._meters.clear()
        for prefix, metrics in sets.items():
            self.log_dict({f"{prefix}/{name}": value for name, value in self.summarise(metrics).items()}, sync_dist=True)

    def _set_name(self, stage: str, index: int) -> str:
        """Return ``NAME/`` if the data module has several named sets (``validation_names``, ``test_names``)."""
        names = getattr(self.trainer.datamodule, {"val": "validation_names", "test": "test_names"}[stage], None)
        return f"{names[index]}/" if names else ("" if index == 0 else f"{index}/")

    # Alarms

    @property
    def _warm(self) -> bool:
        begun = self.global_step >= max(self.optimisation.warmup_steps, 1) and not self.trainer.sanity_checking
        return begun and not self.starts_warm()

    def _look_for_alarms(self, thought: Thought) -> int:
        """Warn once per kind of alarm, and return the number of alarms."""
        found = alarms(thought)
        for text in found:
            kind = text.partition(":")[0]
            if kind not in self._alarmed:
                self._alarmed.add(kind)
                warnings.warn(text, ThinkingWarning, stacklevel=3)
        return len(found)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "optimizer_states" not in checkpoint:  # weights only
            return
        self.generator(_SHARED)
        own = {
            "generators": {kind: generator.get_state() for kind, generator in self._generators.items()},
            "replay": None if self.replay is None else self.replay.state_dict(),
        }
        states: list[Any] = [own]
        if dist.is_available() and dist.is_initialized():
            states = [None] * dist.get_world_size()
            dist.gather_object(own, states if self.global_rank == 0 else None)  # the first process writes the checkpoint
        checkpoint["thinking"] = states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get("thinking")
        trainer = self._trainer
        if states is None or (trainer is not None and trainer.state.fn != "fit"):
            return
        if any((own["replay"] is None) != (self.replay is None) for own in states):
            raise InputError("The checkpoint was written with another recipe.replay_size: resume with the original recipe.")
        if _SHARED not in states[0]["generators"]:
            raise InputError("The checkpoint is of an older version, which drew the numbers of steps differently: start again.")
        own, kinds = states[0], [_SHARED]
        if trainer is None or len(states) == trainer.world_size:
            own = states[self.global_rank]
            kinds = list(own["generators"])
        else:
            self._seeded_at = SCHEDULE_SEED + checkpoint["global_step"] * 1_009
            rank_zero_warn(RESEEDED.format(len(states), trainer.world_size), category=ResumeWarning)
        for kind in kinds:
            generator = self.generator(self.device if self.device.type == kind else kind)
            generator.set_state(own["generators"][kind].cpu())
        if self.replay is not None:
            self.replay.load_state_dict(self._own_replay([state["replay"] for state in states]))

    def _own_replay(self, saved: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the replay buffer of this process from those of all processes that wrote a checkpoint."""
        processes = 1 if self._trainer is None else self._trainer.world_size
        if len(saved) == processes:
            return saved[self.global_rank]
        rounds = zip_longest(*(one["records"][::-1] for one in saved))
        newest = [record for turn in rounds for record in turn if record is not None]
        capacity = saved[0]["capacity"]
        return {"capacity": capacity, "records": newest[self.global_rank :: processes][:capacity][::-1]}


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))
