"""What came with 0.4 is used behind a guard by plugins that fit 0.2 too, and refused without one."""

import sys

import pytest
import torch

from ringfence import Batch, StepInfo
from ringfence.compat.source.plugin_source import read_plugin
from ringfence.compat.version_range import Candidate, check
from ringfence.hooks.series import Index
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.version import __version__

from .newer_names import GUARDED, UNGUARDED

CLASSES = {"Dim": "augment", "Spread": "monitor"}


def judged(folder, text, name, requires="ringfence>=0.2"):
    (folder / "acme_trees.py").write_text(text)
    source = read_plugin("acme_trees", name, [str(folder)])
    return check(Candidate(name.lower(), "acme-trees", "1", (requires,)), source, Index.read(), __version__)


@pytest.mark.parametrize("name", CLASSES)
def test_with_a_guard_it_fits_three_series(tmp_path, name):
    verdict = judged(tmp_path, GUARDED, name)

    assert verdict.decision == "accepted", verdict.message()
    assert "0.2" in verdict.window
    assert "0.4" in verdict.window


@pytest.mark.parametrize("name", CLASSES)
def test_without_one_it_is_refused_with_file_line_and_the_guard_to_write(tmp_path, name):
    verdict = judged(tmp_path, UNGUARDED, name)

    assert verdict.decision == "refused"
    line = UNGUARDED.splitlines().index("from ringfence import map_tensors, tensors_of") + 1
    said = verdict.message()
    for missing in ("map_tensors", "tensors_of"):
        assert f"acme_trees.py:{line}  ringfence has no '{missing}' in 0.2 and 0.3" in said
        guard = f"try: from ringfence import {missing} … except ImportError: {missing} = None …"
        assert f"do without '{missing}', or write '{guard}'" in said
    assert "0.4" not in said.partition("ringfence has no")[2].partition("\n")[0]


def test_the_guard_that_the_message_tells_is_one(tmp_path):
    guard = "try:\n    from ringfence import {0}\nexcept ImportError:\n    {0} = None\n"
    text = UNGUARDED.replace(
        "from ringfence import map_tensors, tensors_of\n",
        guard.format("map_tensors") + guard.format("tensors_of"),
    )

    assert judged(tmp_path, text, "Dim").decision == "accepted"


def test_it_runs_on_a_tree_here_and_on_a_tensor_where_there_are_none(tmp_path, monkeypatch):
    (tmp_path / "acme_trees.py").write_text(GUARDED)
    monkeypatch.syspath_prepend(tmp_path)
    step, rows = StepInfo(3), torch.arange(4)
    trees = {"x": torch.rand(4, 3), "ids": rows.clone()}
    spec = PluginSpec("dim", "r", "0", "acme_trees", "Dim", "augment")
    with_trees = LocalPlugin(spec)
    assert with_trees.takes_trees
    changed = with_trees.call("forward", {"batch": Batch(trees, rows, rows, 4)}, step)
    assert torch.equal(changed.inputs["ids"], rows)
    assert not torch.equal(changed.inputs["x"], trees["x"])

    # As in a series without the names.
    import ringfence

    monkeypatch.delitem(sys.modules, "acme_trees")
    for name in ("map_tensors", "tensors_of"):
        monkeypatch.delattr(ringfence, name, raising=False)
        monkeypatch.delitem(ringfence._ELSEWHERE, name)
    alone = LocalPlugin(spec).call("forward", {"batch": Batch(trees["x"], rows, rows, 4)}, step)
    assert torch.equal(alone.inputs, changed.inputs["x"])
