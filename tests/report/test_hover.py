"""The values that a chart shows where one points."""

from __future__ import annotations

import math
import re

import pytest

from ringfence.report.charts import WHOLE_MODEL, line_chart
from ringfence.report.layer_kinds import kind_of
from ringfence.report.run_data import Curve


def tips(svg):
    """Return what is told at each place, from left to right."""
    found = re.findall(r'<g class="at">(.*?)</g>', svg)
    return [re.findall(r"<tspan[^>]*>([^<]*)</tspan>", group) for group in found]


def test_each_place_tells_the_values_that_are_near():
    training = Curve("training", list(range(0, 60, 3)), [n / 7 for n in range(20)])
    validation = Curve("validation", [19, 57], [0.25, 0.125])

    found = {step: values for step, *values in tips(line_chart("c", "t", [training, validation]))}

    assert found["step 0"] == ["training 0"]
    assert found["step 18"] == ["training 0.8571", "validation 0.25"]
    assert found["step 57"] == ["training 2.714", "validation 0.125"]


def test_marks_lie_where_the_line_does():
    svg = line_chart("c", "t", [Curve("a", [0, 1, 2], [0.0, 4.0, 2.0])])

    circles = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    line = re.search(r'<path d="M ([\d. L]+)" [^>]*stroke: var\(--s1\)', svg)
    assert line is not None
    drawn = [tuple(map(float, pair.split())) for pair in line[1].strip().split("L")]
    assert circles == [pytest.approx(pair, abs=0.1) for pair in drawn]


def test_places_are_bounded_and_gaps_are_none():
    values = [math.nan if n < 500 else float(n) for n in range(1000)]
    found = tips(line_chart("c", "t", [Curve("a", list(range(1000)), values)]))

    assert 20 <= len(found) <= 40
    assert all("nan" not in line for lines in found for line in lines)
    assert tips(line_chart("c", "t", [Curve("a", [0, 1], [math.nan, math.nan])])) == []


def test_names_are_escaped_and_cut():
    name = "<b onmouseover='x'>" * 9
    svg = line_chart("c", "t", [Curve(name, [0, 1], [1.0, 2.0]), Curve("b", [0, 1], [1.0, 2.0])])

    assert "<b" not in svg
    assert all(len(line) < 50 for lines in tips(svg) for line in lines)


@pytest.mark.parametrize(
    ("values", "is_share", "beyond"), [([0.9, 1.0], True, False), ([0.9, 1.0], False, True)]
)
def test_the_axis_of_a_share_ends_at_one(values, is_share, beyond):
    svg = line_chart("c", "t", [Curve("a", [0, 1], values)], is_share=is_share)

    ticks = [float(text) for text in re.findall(r">([01]\.\d+)</text>", svg)]
    assert ticks
    assert (max(ticks) > 1) == beyond or max(ticks) <= 1.0
    top = min(float(y) for y in re.findall(r'cy="([\d.]+)"', svg))
    box = float(re.search(r'class="hit" x="[\d.]+" y="([\d.]+)"', svg)[1])
    assert (top - box < 0.2) == is_share


# kinds of parameters

SHAPES = {
    "features.0.weight": (8, 3, 3, 3),
    "1.weight": (8,),
    "1.bias": (8,),
    "head.weight": (10, 8),
    "scale": (),
}


@pytest.mark.parametrize(
    ("name", "shapes", "kind"),
    [
        ("features.0.weight", SHAPES, "convolutions"),
        ("1.weight", SHAPES, "norm scales"),
        ("1.bias", SHAPES, "biases"),
        ("head.weight", SHAPES, "linear layers"),
        ("scale", SHAPES, "other parameters"),
        ("layer1.bn2.weight", {}, "norm scales"),
        ("encoder.LayerNorm.weight", {}, "norm scales"),
        ("conv.weight", {}, "weights"),
        ("conv.bias", {}, "biases"),
    ],
)
def test_the_kind_of_a_parameter_follows_from_its_shape_or_else_its_name(name, shapes, kind):
    assert kind_of(shapes)(name) == kind


def test_norms_and_convolutions_share_no_band():
    layers = [Curve(f"conv{n}.weight", [0, 1], [0.05, 0.06]) for n in range(6)]
    norms = [Curve(f"bn{n}.weight", [0, 1], [1.0, 1.1]) for n in range(6)]
    whole = Curve(WHOLE_MODEL, [0, 1], [3.0, 3.5])

    last = tips(line_chart("c", "t", [*layers, *norms, whole], kind_of=kind_of({})))[-1]
    assert last == [
        "step 1",
        "norm scales (6) 1.1 (1.1 to 1.1)",
        "weights (6) 0.06 (0.06 to 0.06)",
        f"{WHOLE_MODEL} 3.5",
    ]
    together = tips(line_chart("c", "t", [*layers, *norms, whole]))[-1]
    assert together[1] == "median of 12 0.58 (0.06 to 1.1)"
