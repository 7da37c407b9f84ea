"""Recompute recorded runs of the published code with this library's models and descent.

Recorded draws replace the library's own in ``recorded_alpha`` and ``RecordedNoise``. ``supervise`` trains, ``descend`` and
``choose`` infer, and ``ReplayBuffer`` keeps candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference import settings
from ebt.interop.reference.models import convert
from ebt.interop.reference.settings import Settings
from ebt.interop.reference.weights import Tensors, gradients
from ebt.models.base import ThinkingModel
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.models import DiTForImages, EBTForImages
from ebt.problems.language.base import next_token_loss
from ebt.thinking import IGNORED, Energy, Recipe, Supervised, choose, descend, supervise
from ebt.training.replay import ReplayBuffer

PAD = 0
"""Padding and end-of-text token of the published code, which is never a target."""


class Draws:
    """Recorded random draws of each kind (rand, randint, randn, sample), in order."""

    def __init__(self, recorded: Sequence[tuple[str, Tensor]]) -> None:
        self.recorded = list(recorded)

    def left(self, kind: str) -> int:
        """Return the number of remaining draws of a kind."""
        return sum(name == kind for name, _ in self.recorded)

    def take(self, kind: str) -> Tensor:
        """Return the next draw of a kind.

        Raises:
            InputError: There is none left.
        """
        for i, (name, values) in enumerate(self.recorded):
            if name == kind:
                del self.recorded[i]
                return values
        raise InputError(f"the run needs more draws of kind {kind} than were recorded: record it again")

    def until(self, kind: str) -> Draws:
        """Split off all draws before the first of a kind."""
        at = next((i for i, (name, _) in enumerate(self.recorded) if name == kind), len(self.recorded))
        first, self.recorded = Draws(self.recorded[:at]), self.recorded[at:]
        return first


@dataclass(frozen=True)
class Run:
    """Weights and inputs of a recorded run under their recorded names, in the precision of the computation."""

    hparams: Settings
    weights: Tensors
    inputs: Tensors
    draws: Draws


@dataclass(frozen=True)
class Task:
    """The landscape, targets and start of a run."""

    landscape: Energy
    start: Tensor
    target: Tensor


def recompute(run: Run) -> Tensors:
    """Recompute all tensors of a run, under their recorded names."""
    model: Any = convert(run.hparams, run.weights).requires_grad_()
    if isinstance(model, DiTForImages):
        return _diffuse(model, run)
    if not isinstance(model, ThinkingModel):
        return _feed_forward(model, run.inputs)
    if run.hparams.get("infer_ebt_advanced"):
        return _infer(model, run)
    if run.hparams["mcmc_replay_buffer"]:
        return _replay(model, run)
    return _train(model, run)


def recorded_alpha(model: Any, predictions: tuple[int, ...], spread: float, draws: Draws) -> Tensor:
    """Return the step sizes: the recorded random ones, or, in evaluations, the learned one."""
    alpha: Tensor = model.step_size()
    if spread == 1 or not draws.left("rand"):
        return alpha
    low, high = alpha / spread, alpha * spread
    return low + draws.take("rand").reshape(predictions) * (high - low)


@dataclass(frozen=True)
class RecordedNoise:
    """Recorded Langevin noise of each step."""

    draws: Draws
    first: int = 0
    taken: dict[int, Tensor] = field(default_factory=dict)

    def of(self, rows: slice) -> RecordedNoise:
        """Return the noise of some rows."""
        return replace(self, first=self.first + rows.start)

    def at(self, step: int) -> Callable[[Tensor], Tensor]:
        """Return the noise source of a step."""
        if step not in self.taken:
            self.taken[step] = self.draws.take("randn")
        return lambda like: self.taken[step][self.first : self.first + len(like)]


def _schedule(hparams: Settings, draws: Draws) -> tuple[int, ...]:
    """Return the step index of each step. Each landscape is repeated as often as drawn. In evaluations, without draws, each
    occurs once, and the last one as often as training repeats it at most."""
    landscapes, last_only = hparams["mcmc_num_steps"], hparams["randomize_mcmc_num_steps_final_landscape"]
    repeats = [1] * (landscapes - 1) + [hparams["randomize_mcmc_num_steps"] + 1]
    for i in range(landscapes - 1 if last_only else 0, landscapes):
        if draws.left("randint"):
            repeats[i] = int(draws.take("randint"))
    return tuple(i for i, count in enumerate(repeats) for _ in range(count))


def _drawn_start(given: Tensor, draws: Draws, noises: int) -> Tensor:
    """Return the start of the descent: the last draw before its noises, or the given start."""
    while draws.left("randn") > noises:
        given = draws.take("randn")
    return given


def _task(model: Any, inputs: Tensors) -> Task:
    """Return a batch with its given start. For images, the start comes from the noise schedule."""
    if "input_ids" in inputs:
        ids = inputs["input_ids"]
        return Task(model.landscape(ids[:, :-1]), inputs["initial_logits"], _targets(ids))
    if "embeddings" in inputs:
        frames = inputs["embeddings"]
        return Task(model.landscape(frames[:, :-1]), inputs["initial_prediction"], frames[:, 1:])
    return Task(model.landscape(inputs["image"]), inputs["q_noise"], inputs["image"])


def _targets(ids: Tensor) -> Tensor:
    return ids[:, 1:].masked_fill(ids[:, 1:] == PAD, IGNORED)


def _think(model: Any, task: Task, recipe: Recipe, steps: tuple[int, ...], draws: Draws) -> Supervised:
    """Train with a recipe and the recorded draws."""
    geometry, update = model.geometry(), model.update()
    predictions = tuple(task.start.shape[: geometry.prediction_dims])
    alpha = recorded_alpha(model, predictions, recipe.step_size_spread, draws)
    recipe, noise = replace(recipe, step_size_spread=1.0), RecordedNoise(draws) if recipe.noise else None
    thinking = geometry, update, task.start, task.target, alpha, recipe
    return supervise(task.landscape, *thinking, steps=steps, noise=noise)


def _train(model: Any, run: Run) -> Tensors:
    """Recompute a training or evaluation batch."""
    recipe, steps, task = settings.recipe(run.hparams, run.weights), _schedule(run.hparams, run.draws), _task(model, run.inputs)
    noises = len(steps) if recipe.noise else 0
    if not run.draws.left("randn"):  # noise is optional in image evaluations
        recipe = replace(recipe, noise=0.0)
    task = replace(task, start=_drawn_start(task.start, run.draws, noises))
    if isinstance(model, EBTForImages):
        level = torch.full((len(task.target),), run.hparams["diffusion_steps"] - 1)
        schedule = NoiseSchedule.linear(settings.noise_levels(run.hparams))
        task = replace(task, start=schedule.noised(task.target, task.start, level))
    outcome = _think(model, task, recipe, steps, run.draws)
    outcome.loss.backward()
    return {**_report(model, task, outcome), **gradients(model)}


def _report(model: Any, task: Task, outcome: Supervised) -> Tensors:
    """Return the tensors that the published code reports for a batch."""
    thought, losses = outcome.thought, outcome.losses
    energies, found, state = thought.energies, Tensors(), "prediction"
    if isinstance(model, EBTForImages):
        patches = energies * model.config.patches
        energies = patches.mean(-1)
        found = {f"patch_energy.{i}": energy for i, energy in enumerate(patches)} | {"noised_image": task.start}
        found["l1_loss"] = (thought.state - task.target).abs().mean()
    elif task.target.dtype == torch.long:
        found, state = {"perplexity": losses[-1].exp()}, "logits"
    found |= {f"energy.{i}": energy for i, energy in enumerate(energies)}
    found |= {f"{state}.{i}": value for i, value in enumerate(thought.states)}
    scalars = {"loss": outcome.loss, "initial_loss": losses[0], "final_step_loss": losses[-1]}
    return found | scalars | {"energy_gap": energies[0].mean() - energies[-1].mean()}


def _replay(model: Any, run: Run) -> Tensors:
    """Recompute two batches. Rows of the first, with their final candidates, follow the new rows of the second."""
    recipe, first = settings.recipe(run.hparams, run.weights), run.draws.until("sample")
    buffer = ReplayBuffer(recipe.replay_size)
    fresh = [run.inputs["input_ids"], run.inputs["replay_input_ids"]]
    _, outcome = _replayed(model, run, recipe, fresh[0], None, first)
    buffer.add({"input_ids": fresh[0], "state": outcome.thought.state})
    found = {"call1.loss": outcome.loss, "call1.final_logits": outcome.thought.state}

    records = buffer.state_dict()["records"]
    chosen = [records[int(i)] for i in run.draws.take("sample")]
    old = {key: torch.stack([record[key] for record in chosen]) for key in records[0]}
    ids = torch.cat((fresh[1], old["input_ids"]))
    task, outcome = _replayed(model, run, recipe, ids, old["state"], run.draws)
    outcome.loss.backward()
    buffer.add({"input_ids": fresh[1], "state": outcome.thought.state[: len(fresh[1])]})
    found |= {"call2.batch_input_ids": ids[:, :-1], "call2.replay_logits": old["state"]}
    found |= {"call2.buffer_len": torch.tensor(len(buffer)), "call2.final_logits": outcome.thought.state}
    second = _report(model, task, outcome) | gradients(model)
    return found | {f"call2.{name}": value for name, value in second.items()}


def _replayed(model: Any, run: Run, recipe: Recipe, ids: Tensor, old: Tensor | None, draws: Draws) -> tuple[Task, Supervised]:
    """Recompute a batch whose last rows start from old candidates."""
    task, steps = _task(model, {**run.inputs, "input_ids": ids}), _schedule(run.hparams, draws)
    start = _drawn_start(task.start, draws, len(steps) if recipe.noise else 0)
    start = start if old is None else torch.cat((start[: len(ids) - len(old)], old))
    task = replace(task, start=start)
    return task, _think(model, task, recipe, steps, draws)


def _infer(model: Any, run: Run) -> Tensors:
    """Recompute the best of several samples per token. Recorded rows are context-major, in chunks of one batch; this library's
    are candidate-major."""
    how, ids = settings.inference(run.hparams, run.weights), run.inputs["input_ids"][:, :-1]
    count, steps = how.candidates, len(how.schedule)
    start = _drawn_start(run.inputs["initial_logits"], run.draws, count * steps if how.noise else 0)
    if len(start) != len(ids) * count:
        raise InputError(f"the starts of {count} samples were not recorded: record the run's random draws with them")
    chunks = [[run.draws.take("randn") for _ in range(steps)] for _ in range(count)] if how.noise else []
    noise = Draws([("randn", _candidate_major(torch.cat(step), count)) for step in zip(*chunks, strict=True)])
    with torch.no_grad():
        thought = descend(
            model.landscape(ids),
            _candidate_major(start, count),
            steps=steps,
            step_size=how.step_size,
            geometry=model.geometry(),
            update=model.update(),
            noise=how.noise,
            clamp=model.thinking.clamp,
            generator=RecordedNoise(noise) if how.noise else None,
            schedule=how.schedule,
        )
        chosen = choose(thought, count, how.rule)
    assert chosen.winner is not None
    found = {f"energy.{i}": _context_major(energy, count) for i, energy in enumerate(thought.energies)}
    found["state.last_all_samples"] = _context_major(thought.state, count)
    return found | {"best_index": chosen.winner, "final_logits": chosen.state}


def _candidate_major(rows: Tensor, count: int) -> Tensor:
    return rows.unflatten(0, (-1, count)).transpose(0, 1).flatten(0, 1)


def _context_major(rows: Tensor, count: int) -> Tensor:
    return rows.unflatten(0, (count, -1)).transpose(0, 1).flatten(0, 1)


def _feed_forward(model: Any, inputs: Tensors) -> Tensors:
    """Recompute Transformer++ on text or frames."""
    if "embeddings" in inputs:
        frames = inputs["embeddings"]
        prediction = model(frames[:, :-1])
        found = {"prediction": prediction, "logits": prediction, "loss": F.smooth_l1_loss(prediction, frames[:, 1:])}
    else:
        ids = inputs["input_ids"]
        logits = model(ids[:, :-1]).logits
        labels = torch.cat((ids[:, :1], _targets(ids)), 1)
        loss = next_token_loss(torch.cat((logits, logits[:, -1:]), 1), labels, None)
        found = {"logits": logits, "loss": loss, "perplexity": loss.exp()}
    found["loss"].backward()
    return found | gradients(model)


def _diffuse(model: DiTForImages, run: Run) -> Tensors:
    """Recompute the output of the DiT, its loss at two sets of noise levels, and samples."""
    inputs, schedule = run.inputs, NoiseSchedule.linear(settings.noise_levels(run.hparams))
    found = {"schedule.betas": schedule.betas, "schedule.alphas_cumprod": schedule.kept}
    found["schedule.posterior_log_variance_clipped"] = schedule.least_log_variance
    found["forward"] = model(inputs["x"], inputs["t"])
    image, noise = inputs["image"], inputs["train_noise"]
    for prefix, t in (("t0.", torch.zeros_like(inputs["train_t"])), ("", inputs["train_t"])):
        square, bound = schedule.loss(model(schedule.noised(image, noise, t), t), image, noise, t)
        parts = {"loss": (square + bound).mean(), "mse_loss": square.mean(), "vb_loss": bound.mean()}
        found |= {f"{prefix}{name}": value for name, value in parts.items()}
    found["loss"].backward()
    with torch.no_grad():
        return found | gradients(model) | _trajectories(model, schedule, inputs, run.hparams["diffusion_steps"])


def _trajectories(model: DiTForImages, schedule: NoiseSchedule, inputs: Tensors, steps: int) -> Tensors:
    """Sample with DDIM without noise, and with DDPM and the recorded noise, from the recorded start."""
    import diffusers.schedulers.scheduling_ddpm as ddpm

    found: Tensors = {}
    ddim_sampler, ddpm_sampler = schedule.sampler("ddim"), schedule.sampler("ddpm")
    x = y = inputs["sample_noise"]
    for i, level in enumerate(reversed(range(steps))):
        t = torch.full((len(x),), level)
        step = ddim_sampler.step(model(x, t).chunk(2, 1)[0], level, x, use_clipped_model_output=True)
        x = found[f"ddim.sample.{i}"] = step.prev_sample
        found[f"ddim.pred_xstart.{i}"] = step.pred_original_sample
        with mock.patch.object(ddpm, "randn_tensor", return_value=inputs["ddpm_noise"][i]):
            y = found[f"ddpm.sample.{i}"] = ddpm_sampler.step(model(y, t), level, y).prev_sample
    return found
