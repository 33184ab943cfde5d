"""One sandbox for all tests but those that harm it: its zygote takes seconds to start, a plugin little."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
import torch

from ringfence.hooks.types import Batch, StepInfo, TensorMap
from ringfence.isolation.sandbox import Sandbox
from ringfence.isolation.worker.layers import confine
from ringfence.plugins.interface import PluginSpec

PLUGINS = str(Path(__file__).parent / "plugins")
CONFINED = Path(__file__).parent / "confined_child.py"
NOBODY = 65534


FUZZED = pytest.StashKey()


@pytest.fixture(scope="session")
def tell_fuzzed(request):
    """Take a line for the end of the run: what was executed, and what came of it."""
    return request.config.stash.setdefault(FUZZED, []).append


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(FUZZED, [])
    if lines:
        terminalreporter.section("fuzzing of what workers send")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def sandbox():
    with Sandbox() as running:
        yield running


@pytest.fixture
def spec():
    """Describe a plugin of the folder beside this file."""

    def describe(where, role="gradient", **settings):
        module, _, qualname = where.partition(":")
        return PluginSpec(
            qualname.lower(),
            "tests",
            "1.0",
            module,
            qualname,
            role,
            search_path=(PLUGINS,),
            readable=(PLUGINS,),
            **settings,
        )

    return describe


@pytest.fixture
def start(sandbox, spec):
    """Start a plugin that is closed with the test."""
    started = []

    def start(where, role="gradient", **settings):
        plugin = sandbox.start(spec(where, role, **settings))
        started.append(plugin)
        return plugin

    yield start
    for plugin in started:
        plugin.close()


@pytest.fixture
def gradients():
    generator = torch.Generator().manual_seed(1)
    values = {"weight": torch.randn(5, 3, generator=generator), "bias": torch.randn(3, generator=generator)}
    tensors = TensorMap.like(values)
    for name, value in values.items():
        tensors[name].copy_(value)
    return tensors


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(6, 1, 4, 4, generator=generator)
    return Batch(inputs, torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6), 3)


@pytest.fixture
def step():
    return StepInfo(4, epoch=1, steps_total=10, seed=99)


@pytest.fixture
def confined(tmp_path):
    """Do one thing in a confined child of a fresh process and return what came of it."""

    def run(body, **job):
        return _confined(sys.executable, tmp_path, {}, body, job)

    return run


@pytest.fixture
def confined_nobody():
    """Do the same as a user without rights, with an interpreter that this user may read."""
    if os.geteuid() != 0:
        pytest.skip(
            "only root can become another user; run by an ordinary user, the other tests show the same"
        )
    with tempfile.TemporaryDirectory(prefix="ringfence-nobody-") as folder:
        os.chown(folder, NOBODY, NOBODY)
        packages = Path(folder) / "packages"
        packages.mkdir()
        (packages / "ringfence").symlink_to(Path(confine.__file__).parents[1])
        environment = {"PYTHONPATH": os.pathsep.join((str(packages), sysconfig.get_path("purelib")))}
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        interpreter = _readable_interpreter(environment)

        def run(body, **job):
            return _confined(interpreter, folder, environment, body, job, **user)

        yield run


def _readable_interpreter(environment):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (Path(sys.executable).resolve(), Path("/usr/bin") / version):
        command = [path, "-c", "import msgspec, numpy, ringfence.isolation.worker.layers.confine"]
        try:
            done = subprocess.run(
                command, user=NOBODY, env=environment, capture_output=True, cwd="/", check=False
            )
        except OSError:
            continue
        if done.returncode == 0:
            return str(path)
    pytest.skip(f"no {version} with these packages can be read by user {NOBODY}")


def _confined(interpreter, folder, environment, body, job, **user):
    command = [interpreter, str(CONFINED), json.dumps({"body": body, "folder": str(folder), **job})]
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "2", "HOME": str(folder), **environment},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
        **user,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)
