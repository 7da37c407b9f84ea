"""Settings that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("ebt", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("ebt")
torch.set_num_threads(1)  # the tests' tensors are tiny: threads only cost time


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    """Double precision by default, for exact comparisons."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
