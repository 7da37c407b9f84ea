"""The growing cache: what ``transformers``' own holds, whatever is done to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hub_toys import make_ebt, make_ids, make_twin
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Cache, DynamicCache

from ebt.problems.language.base import GrowingCache

CHANGES: dict[str, Callable[[Cache], object]] = {
    "nothing": lambda cache: None,
    "crop": lambda cache: cache.crop(-2),
    "reorder": lambda cache: cache.reorder_cache(torch.arange(cache.layers[0].keys.shape[0]).flip(0)),
    "repeat": lambda cache: cache.batch_repeat_interleave(2),
    "select": lambda cache: cache.batch_select_indices(torch.tensor([0])),
}
EVENTS = st.lists(st.tuples(st.integers(1, 70), st.sampled_from(sorted(CHANGES))), min_size=1, max_size=6)


@settings(max_examples=40)
@given(EVENTS)
def test_it_holds_what_the_usual_one_holds(events: list[tuple[int, str]]) -> None:
    caches, generator = (GrowingCache(), DynamicCache()), torch.Generator().manual_seed(0)
    rows = 2
    for length, change in events:
        keys, values = (torch.randn(rows, 2, length, 3, generator=generator) for _ in range(2))
        for layer in range(2):
            found, expected = (cache.update(keys + layer, values, layer) for cache in caches)
            for one, other in zip(found, expected, strict=True):
                assert torch.equal(one, other)
        if caches[1].get_seq_length() > 2 or change != "crop":
            for cache in caches:
                CHANGES[change](cache)
        assert caches[0].get_seq_length() == caches[1].get_seq_length()
        rows = caches[1].layers[0].keys.shape[0]


def test_new_tokens_are_written_behind_the_others() -> None:
    cache, places = GrowingCache(), set()
    for _ in range(60):
        cache.update(torch.ones(1, 2, 1, 3), torch.ones(1, 2, 1, 3), 0)
        places.add(cache.layers[0].keys.data_ptr())
    assert len(places) == 1


@pytest.mark.parametrize("make", [make_ebt, make_twin])
def test_generation_uses_it_in_any_mode(make: Callable[[], torch.nn.Module]) -> None:
    model, ids = make(), make_ids()
    options = {"max_new_tokens": 3, "return_dict_in_generate": True, "pad_token_id": 0}
    assert isinstance(model.generate(ids, **options).past_key_values, GrowingCache)
    given = DynamicCache()
    assert model.generate(ids, past_key_values=given, **options).past_key_values is given
    with torch.inference_mode():  # its tensors may be written to in inference mode only
        begun = model.generate(ids, **options)
    going_on = {**options, "past_key_values": begun.past_key_values}
    assert torch.equal(
        model.generate(begun.sequences, **going_on).sequences, model.generate(begun.sequences, **options).sequences
    )


def test_a_graph_keeps_its_tensors() -> None:
    """Gradients through what was cached stand, although more is cached later."""
    cache = GrowingCache()
    first: Tensor = torch.randn(1, 1, 2, 3, requires_grad=True)
    squares = cache.update(first, first, 0)[0].square().sum()
    cache.update(torch.ones(1, 1, 1, 3), torch.ones(1, 1, 1, 3), 0)
    torch.testing.assert_close(torch.autograd.grad(squares, first)[0], 2 * first.detach())
