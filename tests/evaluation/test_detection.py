from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebt.evaluation.statistics import auroc

CASES = st.lists(st.tuples(st.sampled_from([-1e6, -1.0, 0.0, 0.5, 0.50001, 3.0, 2e6]), st.booleans()), min_size=1, max_size=30)


@given(CASES)
def test_it_is_the_chance_that_a_wrong_prediction_has_more_energy(cases: list[tuple[float, bool]]) -> None:
    wrong, right = ([energy for energy, is_wrong in cases if is_wrong == kind] for kind in (True, False))
    found = auroc(torch.tensor([e for e, _ in cases]), torch.tensor([w for _, w in cases]))
    if not wrong or not right:
        assert found is None
        return
    pairs = [1.0 if w > r else 0.5 if w == r else 0.0 for w in wrong for r in right]
    assert found == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
