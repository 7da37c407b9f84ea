"""Fused attention of candidates against the plain formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ebt import descend
from ebt.nn import EBTDecoder, NetworkConfig
from ebt.nn.blocks import Block, attend_context_and_self, rotation
from ebt.nn.first_order import KernelWarning, aligned, attend_once, kernel, run_once, written_out

pytestmark = pytest.mark.usefixtures("float64")

shapes = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 2),
        "candidates": st.integers(1, 3),
        "heads": st.integers(1, 2),
        "length": st.integers(2, 40),
        "past": st.integers(0, 7),
        "width": st.sampled_from([2, 6, 16]),
        "mask": st.sampled_from(["causal", "earlier", "padded", "all"]),
    }
)


def inputs(rows: int, candidates: int, heads: int, length: int, past: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    own, context = (candidates * rows, heads, length, width), (rows, heads, past + length, width)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in (own, own, own, context, context)]


@given(shapes)
@settings(max_examples=30)
def test_outputs_and_gradients_are_those_of_the_plain_formula(case: dict[str, int]) -> None:
    mask = case.pop("mask")
    case["past"] = 0 if mask == "causal" else case["past"]
    tensors, observed = inputs(**case), case["past"] + case["length"]
    visible = torch.ones(case["length"], observed, dtype=torch.bool).tril(case["past"])
    if mask == "padded":
        visible = visible.repeat(case["rows"], 1, 1, 1)
        visible[0, :, :, 0] = False
        visible[0, :, 0, 0] = True  # a position without any context does not occur
    seen = None if mask == "all" else visible
    fused = attend_once(*tensors, seen, mask == "causal")
    plain = attend_context_and_self(*tensors, seen)
    assert fused is not None
    torch.testing.assert_close(fused, plain)
    slope = torch.randn_like(plain)
    for got, expected in zip(*(torch.autograd.grad(output, tensors, slope) for output in (fused, plain)), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precisions(dtype: torch.dtype) -> None:
    tensors = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs(1, 1, 2, 70, 0, 16)]
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    visible = torch.ones(70, 70, dtype=torch.bool).tril()
    fused, plain = attend_once(*tensors, visible, True), attend_context_and_self(*wide, visible)
    assert fused is not None
    assert fused.dtype == dtype
    slope = torch.randn_like(plain).to(dtype)
    found, expected = torch.autograd.grad(fused, tensors, slope), torch.autograd.grad(plain, wide, slope.double())
    tolerance = 30 * torch.finfo(dtype).eps
    for got, right in zip((fused, *found), (plain, *expected), strict=True):
        assert (got - right).norm() < tolerance * right.norm()


few = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 3),
        "candidates": st.integers(1, 3),
        "heads": st.integers(1, 2),
        "length": st.integers(1, 9),
        "padded": st.booleans(),
    }
)


@given(few)
@settings(max_examples=20)
def test_a_block_written_out_is_the_block(case: dict[str, int]) -> None:
    torch.manual_seed(0)
    block, rows, heads = Block(NetworkConfig(1, 8 * case["heads"], case["heads"])), case["rows"], case["heads"]
    for norm in (block.attention_norm, block.ffn_norm):
        torch.nn.init.normal_(norm.weight)
    keys, values = torch.randn(2, rows, heads, case["length"], 8)
    visible = torch.rand(rows, 1, 1, case["length"]) < 0.5 if case["padded"] else None
    rotary = rotation(torch.arange(rows).unsqueeze(-1), 8, 1e4, keys).repeat(case["candidates"], 1, 1, 1)
    x = torch.randn(rows * case["candidates"], 1, 8 * heads, requires_grad=True)
    (plain,) = block(x, lambda *own: (attend_context_and_self(*own, keys, values, visible),), rotary)
    assert written_out(block)
    once = run_once(block, x, keys, values, visible, rotary)
    torch.testing.assert_close(once, plain)
    slope = torch.randn_like(plain)
    torch.testing.assert_close(torch.autograd.grad(once, x, slope), torch.autograd.grad(plain, x, slope))


@pytest.mark.parametrize("part", ["", "up", "attention.value", "ffn_norm"])
def test_hooks_of_a_block_are_called(part: str) -> None:
    network, start, calls = EBTDecoder(NetworkConfig(2, 16, 2)), torch.randn(1, 1, 16), list[int]()
    network.blocks[0].get_submodule(part).register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        descend(network.encode(torch.randn(1, 5, 16), predictions=1), start, steps=2, step_size=0.1)
    assert len(calls) == 4  # for the context, two steps and the final energy


@pytest.mark.parametrize("change", [{"block": "dit"}, {"kv_heads": 1}, {"conditioning": "modulation"}])
def test_other_blocks_are_not_written_out(change: dict[str, Any]) -> None:
    assert not written_out(Block(NetworkConfig(1, 16, 2, **change)))
    assert not written_out(Block(NetworkConfig(1, 16, 2)).to(torch.bfloat16))


def test_a_missing_kernel_is_named() -> None:
    tensors = [tensor.detach().to("meta") for tensor in inputs(1, 1, 2, 4, 0, 8)]
    with pytest.warns(KernelWarning, match=r"no fused attention for torch.float64 on meta.*with the same result"):
        assert attend_once(*tensors, None, True) is None


def test_kernels_by_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    capability = [(8, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability[0])
    assert kernel(cpu, torch.float64, masked=True, width=64) is not None
    assert kernel(cuda, torch.float64, masked=False, width=64) is None
    assert "flash" in str(kernel(cuda, torch.bfloat16, masked=False, width=64))
    for dtype, masked, width in ((torch.bfloat16, True, 64), (torch.bfloat16, False, 512), (torch.float32, False, 64)):
        assert "efficient" in str(kernel(cuda, dtype, masked, width))
    capability[0] = (7, 5)  # has no flash kernel
    assert "efficient" in str(kernel(cuda, torch.float16, masked=False, width=64))
    assert kernel(torch.device("mps"), torch.float32, masked=False, width=64) is None


@pytest.mark.parametrize("shape", [(5, 17), (2, 1, 5, 13), (8, 16)])
def test_masks_are_aligned_as_kernels_for_cuda_need(shape: tuple[int, ...]) -> None:
    visible = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    mask = aligned(visible, torch.empty(0))
    assert mask.stride(-2) % 8 == 0
    assert torch.equal(mask == 0, visible)
    assert torch.equal(mask.isneginf(), ~visible)
