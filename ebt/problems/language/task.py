"""Language modelling: predict the next token by thinking, or with the feed-forward twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor

from ebt.models.base import HubModel
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.tokenizers import encode
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.problems.pretrained import start_from
from ebt.thinking import Recipe
from ebt.training.model_task import ModelTask, Network
from ebt.training.sharding import gathered
from ebt.training.task import RECIPE, Batch


@dataclass(frozen=True)
class LanguageNetwork(Network):
    """A language model: ``ebt``, or its feed-forward twin ``transformer_pp``."""

    kind: Literal["ebt", "transformer_pp"] = "ebt"
    loads_pretrained: ClassVar = True

    def build(self, vocab_size: int, context_length: int, recipe: Recipe, steps: int) -> HubModel:
        """Build the model, with fresh weights unless it is pretrained.

        Raises:
            InputError: If a pretrained model does not fit, see ``ebt.problems.pretrained.start_from``.
        """
        if self.pretrained is not None:
            kinds = {"ebt": EBTForCausalLM, "transformer_pp": TransformerPPForCausalLM}
            data = {"vocab_size": vocab_size, "context_length": context_length}
            return start_from(self, recipe, kinds, lambda fresh: fresh.build(**data, recipe=recipe, steps=steps), **data)
        sizes = {"vocab_size": vocab_size, "context_length": context_length, **self.sizes()}
        if self.kind == "ebt":
            return EBTForCausalLM(EBTConfig(**sizes, **self.thinking(recipe, steps), mean_from=recipe.min_steps))
        return TransformerPPForCausalLM(TransformerPPConfig(**sizes))


class TextSamples(L.Callback):
    """Generate a continuation of a prompt after a validation, for the logger and the terminal.

    Args:
        every: Number of validations between samples. 0 disables them.
        prompt: Text to continue. Empty begins a new document.
        tokens: Number of tokens to generate.
    """

    def __init__(self, every: int = 1, prompt: str = "", tokens: int = 60) -> None:
        self.every, self.prompt, self.tokens = every, prompt, tokens
        self.validations = 0

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        tokenizer = getattr(trainer.datamodule, "tokenizer", None)
        if not self.every or tokenizer is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validations += 1
        if (self.validations - 1) % self.every == 0:
            with torch.no_grad(), trainer.precision_plugin.forward_context(), gathered(pl_module):
                text = self.sample(pl_module, tokenizer)  # in all processes, which gather weights together
            pl_module.print(f"  sample: {text!r}")  # only in the first process, as loggers do
            for logger in trainer.loggers:
                if isinstance(logger, L.pytorch.loggers.TensorBoardLogger):
                    logger.experiment.add_text("sample", text, trainer.global_step)

    def sample(self, task: Any, tokenizer: Any) -> str:
        """Generate one continuation with a fixed seed."""
        begin, room = [] if self.prompt else [tokenizer.eos_token_id], task.model.config.context_length
        ids = torch.tensor([[*begin, *encode(tokenizer, [self.prompt])[0]][: room - 1]], device=task.device)
        with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []):
            torch.manual_seed(0)
            tokens = min(self.tokens, room - ids.shape[1])
            output = task.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=True, temperature=0.8, top_k=50,
                pad_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        return str(tokenizer.decode(output[0], skip_special_tokens=True))

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]


NETWORK = LanguageNetwork()


class LanguageTask(ModelTask):
    """Predict each next token. The loss is in nats per token.

    Batches have ``input_ids`` and ``targets`` (B, S), -100 where a token is not scored. The vocabulary and the context length
    are those of the trainer's data module (``vocab_size``, ``context_length``).

    Args:
        network: The model.
        recipe, settings: See ``ThinkingTask``.
        sample_every: Number of validations between generated samples. 0 disables them.
        sample_prompt: Text that samples continue. A new document by default.
        sample_tokens: Number of tokens of a sample.

    Also logged: perplexity, the exponential of the mean loss over all scored tokens.
    """

    prediction_dims = 2
    warm_starts = True

    def __init__(
        self,
        network: LanguageNetwork = NETWORK,
        recipe: Recipe = RECIPE,
        sample_every: int = 1,
        sample_prompt: str = "",
        sample_tokens: int = 60,
        **settings: Any,
    ) -> None:
        super().__init__(network=network, recipe=recipe, **settings)
        self.samples = TextSamples(sample_every, sample_prompt, sample_tokens)

    def build(self) -> HubModel:
        vocab_size, context_length = self.of_data("vocab_size", "context_length")
        return self.network.build(vocab_size, context_length, self.recipe, self.steps)

    def configure_callbacks(self) -> list[L.Callback]:
        return [self.samples] if self.samples.every else []

    def context(self, batch: Batch) -> Tensor:
        return batch["input_ids"]

    def target(self, batch: Batch) -> Tensor:
        return batch["targets"]

    def passes(self, batch: Batch, iterations: int, burn_in: int = 0) -> list[Tensor]:
        return [self.model(batch["input_ids"]).logits]

    def summarise(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        perplexities = {
            name.replace("loss", "perplexity"): value.exp() for name, value in metrics.items() if name.startswith("loss")
        }
        return {**super().summarise(metrics), **perplexities}
