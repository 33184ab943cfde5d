"""The process that plugins are forked from is killed or hangs: in the middle of a run, or as one starts."""

import contextlib
import os
import signal

import pytest
import torch

from ringfence import SandboxUnavailableError, StepInfo, TensorMap
from ringfence.isolation.sandbox import Sandbox

from ..watching import descriptors, hang, open_files, settled_descriptors
from .victims import children


@pytest.fixture(scope="module")
def sandbox(stage):
    """Return a sandbox whose zygote may be harmed; that of the stage has others to serve."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def spec(stage):
    """Describe a plugin that does no harm."""
    return lambda **settings: stage.spec("Bystander", module="bystander", **settings)


@pytest.fixture
def zygote(sandbox, spec, stage):
    """Return a zygote that has answered, and look at what is left once it was harmed."""
    stage.run(spec(), sandbox)
    others, count = children(os.getpid()) - {sandbox._zygote.pid}, descriptors()
    yield sandbox._zygote
    stage.run(spec(), sandbox)  # the sandbox is of use again
    assert children(os.getpid()) - {sandbox._zygote.pid} == others
    assert settled_descriptors(count) <= count, open_files()
    assert list(sandbox.folder.glob("scratch-*")) == []


def harmed(zygote, harm):
    """Make a context that does harm to the zygote before the first step."""

    @contextlib.contextmanager
    def context(_):
        harm(zygote)
        yield

    return context


def kill(zygote):
    """Kill it, and wait until it has ended."""
    os.kill(zygote.pid, signal.SIGKILL)
    zygote.wait()


@pytest.mark.attack(48)
def test_a_run_whose_zygote_is_killed_goes_on_in_another(stage, sandbox, spec, zygote):
    outcome = stage.run(spec(on_failure="restart"), sandbox, harmed(zygote, kill))
    assert outcome.weights == stage.reference
    assert "its worker is gone, and the process that forked it too" in outcome.events[0]
    assert "restarted (1 of 3 in a row)" in outcome.events[0]
    assert sandbox._zygote.generation == zygote.generation + 1


@pytest.mark.attack(48)
def test_a_run_that_needs_no_zygote_does_not_notice_that_it_hangs(stage, sandbox, spec, zygote):
    outcome = stage.run(spec(), sandbox, harmed(zygote, hang))
    assert outcome.error is None
    assert outcome.weights == stage.reference
    # To collect the worker it was asked, in vain, and ended.
    assert zygote.has_ended()


@pytest.mark.attack(48)
def test_a_plugin_that_restarts_while_the_zygote_hangs_goes_on_in_another(stage, sandbox, spec, zygote):
    gradients = TensorMap.like({"weight": torch.ones(4)})
    plugin = sandbox.start(spec())
    hang(zygote)
    plugin.restart()
    assert zygote.has_ended()
    assert sandbox._zygote.generation == zygote.generation + 1
    assert plugin.call("backward", {"gradients": gradients}, StepInfo(0)) is not None
    plugin.close()


@pytest.mark.attack(48)
def test_a_plugin_that_starts_while_the_zygote_hangs_is_told_why_it_cannot(sandbox, spec, zygote):
    hang(zygote)
    with pytest.raises(SandboxUnavailableError, match=r"did not answer within 0\.3 s"):
        sandbox.start(spec())


@pytest.mark.control(48)
def test_plugins_that_were_forked_by_the_trainer_itself_outlive_it(naive):
    assert naive.ask("trainer", "remains:orphans")["left"] > 0
