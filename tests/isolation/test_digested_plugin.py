"""A sandbox runs what was digested: what is changed later, or added beside it, is not run in its place."""

import hashlib
import os
from dataclasses import replace

import pytest

from ringfence.hooks.errors import PluginLoadError, PluginRaisedError
from ringfence.imports.digested_imports import DigestedFile, DigestedFiles, identity_of
from ringfence.plugins.interface import PluginSpec
from ringfence.tensors import pytree

PLUGIN = """
import os
from ringfence import passthrough
from tools import FACTOR

class Victim:
    role = "gradient"
    forward = passthrough

    def __init__(self, table=""):
        self.refused = False
        try:
            os.close(os.open(table, os.O_WRONLY | os.O_APPEND)) if table else None
        except OSError:
            self.refused = True

    def backward(self, gradients, step):
        from later import EXPONENT
        return {name: gradient * FACTOR ** EXPONENT for name, gradient in gradients.items()}

    def state_dict(self):
        return {"refused": self.refused}

    def load_state_dict(self, state): ...
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "victim.py").write_text(PLUGIN)
    (tmp_path / "tools.py").write_text("FACTOR = 3.0\n")
    (tmp_path / "later.py").write_text("EXPONENT = 1\n")
    return tmp_path


@pytest.fixture
def started(folder, sandbox):
    """Return a function that starts the plugin, held to what is given."""
    plugins = []

    def start(digested, **options):
        place = str(folder)
        spec = PluginSpec("victim", "tests", "1.0", "victim", "Victim", "gradient", options)
        spec = replace(spec, search_path=(place,), readable=(place,), digested=digested)
        plugins.append(sandbox.start(spec))
        return plugins[-1]

    yield start
    for plugin in plugins:
        plugin.close()


def digest(folder, *, is_whole=False):
    files = {}
    for path in folder.glob("*.py"):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        files[str(path.resolve())] = DigestedFile(sha256, identity_of(path.stat()))
    return DigestedFiles(files, is_whole=is_whole)


def factor(plugin, gradients, step):
    changed = plugin.call("backward", {"gradients": gradients}, step)
    return {float((changed[name] / gradient).mean().round()) for name, gradient in gradients.items()}


def test_what_was_changed_before_a_start_keeps_it_from_starting(folder, started, gradients, step):
    digested = digest(folder, is_whole=True)
    assert factor(started(digested), gradients, step) == {3.0}
    (folder / "tools.py").write_text("FACTOR = 9.0\n")
    with pytest.raises(PluginLoadError, match=r"tools.py has changed since the run began; put it back"):
        started(digested)
    assert factor(started(None), gradients, step) == {9.0}


def test_what_was_changed_after_the_start_is_not_run(folder, started, gradients, step):
    held, free = started(digest(folder)), started(None)
    (folder / "later.py").write_text("EXPONENT = 2\n")
    with pytest.raises(PluginRaisedError, match=r"module 'later' in .* has changed since the run began"):
        factor(held, gradients, step)
    assert factor(free, gradients, step) == {9.0}


def test_what_was_added_is_run_in_place_of_a_module_only_without_a_lock(folder, started, gradients, step):
    digested = digest(folder)
    (folder / "tools").mkdir()
    (folder / "tools" / "__init__.py").write_text("FACTOR = 9.0\n")
    assert factor(started(digested), gradients, step) == {9.0}
    with pytest.raises(
        PluginLoadError, match=r"module 'tools' in .* is not in the lock of this job's plugins"
    ):
        started(DigestedFiles(digested.files, is_whole=True))


def test_a_plugin_cannot_write_what_it_is_held_to(folder, started, sandbox):
    plugin = started(digest(folder, is_whole=True), table=str(sandbox.folder / "digested-victim"))
    assert os.access(sandbox.folder / "digested-victim", os.W_OK)
    assert pytree.decode(plugin.state_dict()) == {"refused": True}
