"""Batches and outputs that are trees cross to a sandbox and back as they are."""

import sys

import pytest
import torch

from ringfence import Batch, PluginProtocolError, StepInfo, tensors_of
from ringfence.plugins.local_plugin import LocalPlugin


def tree_batch(samples=4, length=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "ids": torch.randint(0, 2, (samples, length), generator=generator),
        "mask": torch.rand(samples, length, generator=generator) > 0.3,
        "parts": [torch.rand(samples, 3, generator=generator), torch.rand(samples, generator=generator)],
    }
    targets = {
        "boxes": torch.rand(samples, 2, 4, generator=generator),
        "classes": torch.ones(samples, 2).long(),
    }
    return Batch(inputs, targets, torch.arange(samples))


@pytest.fixture
def both(start, spec):
    def both(where, role, **settings):
        isolated, local = start(where, role, **settings), LocalPlugin(spec(where, role, **settings))
        sys.modules.pop("obedient", None)
        return isolated, local

    return both


def assert_same(one, other):
    for trees in ((one.inputs, other.inputs), (one.targets, other.targets)):
        first, second = (tensors_of(tree) for tree in trees)
        assert [(t.dtype, t.shape) for t in first] == [(t.dtype, t.shape) for t in second]
        assert all(map(torch.equal, first, second))


def test_a_tree_is_changed_alike_in_a_sandbox_and_out_of_it_with_sizes_that_vary(both):
    isolated, local = both("obedient:OfTrees", "augment", workers=2)
    batches = [(tree_batch(2 + k, 3 + k % 4, seed=k), StepInfo(k)) for k in range(8)]
    told = []
    results = [
        list(plugin.stream(iter(batches), done=lambda step: told.append(step.scalars), failed=pytest.fail))
        for plugin in (isolated, local)
    ]
    for (one, step), (other, _), (batch, _) in zip(*results, batches, strict=True):
        assert_same(one, other)
        assert list(one.inputs) == list(batch.inputs) == ["ids", "mask", "parts"]
        assert torch.equal(one.inputs["ids"], 1 - batch.inputs["ids"])
        assert torch.equal(one.inputs["parts"][1], batch.inputs["parts"][1] * 0.5 + step.global_step)
        assert torch.equal(one.inputs["mask"], ~batch.inputs["mask"])
        assert torch.equal(one.indices, batch.indices)
    assert told == [{"tensors": 4.0}] * 16


def test_a_loss_term_of_outputs_that_are_a_tree_crosses(both):
    outputs = {"logits": torch.rand(4, 2), "hidden": [torch.rand(4, 3, 2), torch.rand(4)]}
    arguments = {"batch": tree_batch(), "outputs": outputs, "loss": 1.0}
    terms = [
        plugin.call("forward", arguments, StepInfo(3))
        for plugin in both("obedient:OutputsOfTrees", "gradient")
    ]
    assert terms[0].value == terms[1].value == sum(float(t.double().sum()) for t in tensors_of(outputs))
    for term in terms:
        assert list(term.gradient) == ["logits", "hidden"]
        assert [t.shape for t in tensors_of(term.gradient)] == [t.shape for t in tensors_of(outputs)]
        assert all(bool((t == 1).all()) for t in tensors_of(term.gradient))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("key", r"inputs with other keys: missing \[\], extra \['more'\]"),
        ("shape", r"inputs\['ids'\] of shape \(4, 4\); expected \(4, 5\)"),
        ("dtype", r"inputs\['ids'\] of dtype torch.float32; expected torch.int64"),
        ("list", "inputs of type list; expected a dict"),
        ("not finite", r"inputs\['parts'\]\[0\] with a value that is not finite"),
    ],
)
def test_another_form_is_refused_and_named(both, how, message):
    for plugin in both("obedient:OfOtherForm", "augment", options={"how": how}):
        with pytest.raises(PluginProtocolError, match=message):
            plugin.call("forward", {"batch": tree_batch()}, StepInfo(0))


def test_what_a_plugin_knows_is_told_by_its_class(both):
    assert [plugin.takes_trees for plugin in both("obedient:OfTrees", "augment")] == [True, True]
    assert [plugin.takes_trees for plugin in both("obedient:Brighten", "augment")] == [False, False]
