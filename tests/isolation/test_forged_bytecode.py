"""A test of an attacker's has left compiled code beside an installed plugin: the sandbox runs the source."""

import subprocess
import sys

import pytest

from ringfence.plugins.interface import PluginSpec

from ..forged_bytecode import forge

PLUGIN = """
from ringfence import passthrough

class Victim:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients, step):
        return {name: gradient * NUMBER for name, gradient in gradients.items()}
"""
SHOW = "import sys; sys.path.insert(0, sys.argv[1]); import victim; print(victim.NUMBER)"


@pytest.fixture
def spec(tmp_path):
    """Describe a plugin of a module and a package, beside each of which lies compiled code of others."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "__init__.py").write_text("ONE = 1.0\n")
    (tmp_path / "victim.py").write_text(f"from inner import ONE\n\nNUMBER = 2 * ONE\n{PLUGIN}")
    folder = str(tmp_path)
    return PluginSpec(
        "victim", "tests", "1.0", "victim", "Victim", "gradient", search_path=(folder,), readable=(folder,)
    )


@pytest.mark.parametrize("kind", ["timestamp", "unchecked"])
def test_a_sandbox_runs_the_source_and_a_process_without_one_what_was_forged(
    sandbox, spec, tmp_path, gradients, step, kind
):
    forge(tmp_path / "victim.py", f"from inner import ONE\nNUMBER = 30 * ONE\n{PLUGIN}", kind=kind)
    forge(tmp_path / "inner" / "__init__.py", "ONE = 100.0", kind=kind)
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, tmp_path], capture_output=True, check=True, timeout=60
    )
    assert float(shown.stdout) == 3000
    plugin = sandbox.start(spec)
    try:
        changed = plugin.call("backward", {"gradients": gradients}, step)
        assert all((changed[name] == 2 * gradient).all() for name, gradient in gradients.items())
    finally:
        plugin.close()
