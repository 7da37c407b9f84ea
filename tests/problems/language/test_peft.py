"""PEFT adapts models of text as it does those of `transformers`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hub_toys import make_ebt, make_twin
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_ebt, make_twin])
def test_lora_starts_as_the_model_and_is_saved_and_merged(make: type[PreTrainedModel], tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids = torch.randint(1, 20, (2, 9))
    model = make()
    before = model(ids, labels=ids).loss
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    assert adapted(input_ids=ids, labels=ids).loss.item() == pytest.approx(before.item())
    learned = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert learned
    assert all("lora_" in name for name in learned)
    optimiser = torch.optim.Adam([weight for weight in adapted.parameters() if weight.requires_grad], 0.01)
    adapted.train()
    for _ in range(3):
        optimiser.zero_grad()
        adapted(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    adapted.eval()
    after = adapted(input_ids=ids, labels=ids).loss.item()
    assert after < before.item()
    text = adapted.generate(input_ids=ids[:1, :4], max_new_tokens=3, pad_token_id=0)
    assert text.shape == (1, 7)
    adapted.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(make(), str(tmp_path))
    assert loaded(input_ids=ids, labels=ids).loss.item() == pytest.approx(after)
    merged = loaded.merge_and_unload()
    assert merged(ids, labels=ids).loss.item() == pytest.approx(after)
    assert torch.equal(merged.generate(ids[:1, :4], max_new_tokens=3, pad_token_id=0), text)
