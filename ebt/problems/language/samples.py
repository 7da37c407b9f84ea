"""Samples of generated text during training: what a loss does not tell."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from ebt.problems.language.tokenizers import encode
from ebt.training.sharding import gathered


class TextSamples(L.Callback):
    """Let the model continue a prompt after a validation, into the logger and the terminal.

    Args:
        every: validations between samples; 0 for none.
        prompt: the text to continue; empty: a new document.
        tokens: how many to generate.
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
            with torch.no_grad(), gathered(pl_module):
                if trainer.is_global_zero:
                    self._show(trainer, pl_module, tokenizer)

    def _show(self, trainer: L.Trainer, task: L.LightningModule, tokenizer: Any) -> None:
        text = self.sample(task, tokenizer)
        task.print(f"  sample: {text!r}")
        for logger in trainer.loggers:
            if isinstance(logger, L.pytorch.loggers.TensorBoardLogger):
                logger.experiment.add_text("sample", text, trainer.global_step)

    def sample(self, task: Any, tokenizer: Any) -> str:
        """One continuation, drawn from a fixed seed."""
        begin = [] if self.prompt else [tokenizer.eos_token_id]
        ids = torch.tensor([[*begin, *encode(tokenizer, [self.prompt])[0]]], device=task.device)
        with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []):
            torch.manual_seed(0)
            tokens = min(self.tokens, task.model.config.context_length - ids.shape[1])
            output = task.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=True, temperature=0.8, top_k=50,
                pad_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        return str(tokenizer.decode(output[0], skip_special_tokens=True))

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]
