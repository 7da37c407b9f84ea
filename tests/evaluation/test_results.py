from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ebt.evaluation.results import Curve
from ebt.files import finite, write_json
from ebt.problems.language.metrics import MEASURE, LanguagePoint


def point(steps: int, nats: float, forward: float = 1.0, perplexity: float = 2.0) -> LanguagePoint:
    return LanguagePoint(steps, 1, -1.0, -2.0, forward, 1.0, nats, None, perplexity, 0.5, None)


def curve(*points: LanguagePoint) -> Curve[LanguagePoint]:
    return Curve("language", MEASURE, "ebt", list(points), rows=2, scored=8, alarms=("too hot",))


def test_json_is_standard_and_holds_everything(tmp_path: Path) -> None:
    written = curve(point(1, 2.5), point(2, math.inf, perplexity=math.nan))
    write_json(written, tmp_path / "curve.json")
    read = json.loads((tmp_path / "curve.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert read == finite(written)
    assert read["points"][0] == vars(written.points[0])
    assert (read["points"][1]["nats"], read["points"][1]["perplexity"], read["alarms"]) == (None, None, ["too hot"])


def test_of_equally_good_points_the_cheapest_is_best() -> None:
    assert curve(point(1, 3.0), point(4, 2.0, forward=8), point(2, 2.0, forward=4)).best().steps == 2


def test_a_point_that_was_not_measured_is_no_point() -> None:
    with pytest.raises(KeyError, match="3 steps"):
        curve(point(1, 3.0)).at(3)
