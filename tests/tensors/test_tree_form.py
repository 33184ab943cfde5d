"""Trees: what is made one, compared with one, told of one and grown from its paths."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch

from ringfence import map_tensors, tensors_of
from ringfence.tensors.tree_form import (
    MAX_DEPTH,
    MAX_TENSORS,
    TreeError,
    conform,
    describe_tree,
    grow,
    is_grown,
    paths_of,
    tensors_within,
    to_tree,
)

A, B, C = torch.zeros(2), torch.ones(2, 3), torch.arange(2)
TREE = {"a": A, "more": [B, {"c": C}]}


def test_tensors_come_in_order_and_a_map_keeps_the_form():
    assert [id(t) for t in tensors_of(TREE)] == [id(A), id(B), id(C)]
    assert map_tensors(lambda t: t.dim(), TREE) == {"a": 1, "more": [2, {"c": 1}]}
    assert tensors_of(A)[0] is A
    for call in (tensors_of, lambda tree: map_tensors(torch.clone, tree)):
        with pytest.raises(TypeError, match="a tuple is no tree; expected a tensor, or dicts and lists"):
            call({"a": (A,)})


def test_tuples_and_mappings_become_a_tree():
    class Pair(NamedTuple):
        x: torch.Tensor
        y: torch.Tensor

    assert to_tree(OrderedDict(a=A, more=(B, {"c": C})), "inputs")["more"][1] == {"c": C}
    assert to_tree(Pair(A, B), "inputs") == [A, B]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": "text"}, r"inputs\['a'\] is of type str; expected tensors"),
        ({1: A}, "inputs has a key of type int; keys must be str"),
        ({"a": []}, "inputs hold 0 tensors; there must be 1 to 1000"),
        ([A] * (MAX_TENSORS + 1), "inputs hold 1001 tensors"),
    ],
)
def test_what_is_no_tree_is_told_with_its_place(value, message):
    with pytest.raises(TreeError, match=message):
        to_tree(value, "inputs")


def test_depth_is_bounded():
    value = A
    for _ in range(MAX_DEPTH):
        value = [value]
    assert tensors_of(to_tree(value, "inputs"))[0] is A
    with pytest.raises(TreeError, match="nested more than 16 deep"):
        to_tree([value], "inputs")
    value.append(value)
    with pytest.raises(TreeError, match="nested more than 16 deep"):
        to_tree(value, "inputs")
    # Of what a model returned the rest is as good as without.
    assert tensors_of(tensors_within(value))[0] is A


def test_of_outputs_the_tensors_are_taken():
    @dataclass
    class Output:
        loss: object
        logits: torch.Tensor
        cache: object = None

    assert tensors_within(A) is A
    assert tensors_within(Output(None, B, cache=object())) == {"logits": B}
    assert tensors_within((A, None, "text", [B])) == [A, [B]]
    assert tensors_within("text") == tensors_within(None) == {}


def test_a_tree_takes_the_order_of_another():
    found = conform({"more": [B, {"c": C}], "a": A}, TREE, "inputs")
    assert list(found) == ["a", "more"]
    with pytest.raises(TreeError, match=r"inputs\['more'\] of 1 items; expected 2"):
        conform({"a": A, "more": [B]}, TREE, "inputs")
    with pytest.raises(TreeError, match=r"inputs\['a'\] of type list; expected a tensor"):
        conform({"a": [A], "more": [B, {"c": C}]}, TREE, "inputs")


def test_a_tree_is_told_with_the_first_of_its_tensors():
    assert describe_tree(TREE) == "a dict of a float32 (2,), more.0 float32 (2, 3), more.1.c int64 (2,)"
    assert describe_tree([A] * 9).endswith("5 float32 (2,) and 3 more")
    assert describe_tree(B) == "a tensor float32 (2, 3)"


@pytest.mark.parametrize("tree", [A, TREE, [A], [[A], [B, C]], {"0": A, "1": {"x": B}}])
def test_a_tree_grows_again_from_its_paths(tree):
    paths = [path for path, _ in paths_of(tree)]
    assert is_grown(paths)
    again = grow(paths_of(tree))
    assert describe_tree(again) == describe_tree(tree)
    assert [id(t) for t in tensors_of(again)] == [id(t) for t in tensors_of(tree)]


@pytest.mark.parametrize(
    "paths",
    [
        [],
        [(), ("a",)],
        [("a",), ("a",)],
        [("a",), ("a", "b")],
        [("a",), (0,)],
        [(1,), (0,)],
        [(1,)],
        [("a", 0), ("b",), ("a", 1)],
    ],
)
def test_paths_of_no_tree_are_none(paths):
    assert not is_grown(paths)
