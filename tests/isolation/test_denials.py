"""What plugins try is counted once it is refused, and is refused whoever listens, or nobody."""

import errno
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ringfence.hooks.errors import PluginLoadError, PluginTimeoutError
from ringfence.isolation.host.grants import denials as attempts_module
from ringfence.isolation.host.grants.denials import MAX_TOLD, Answerer
from ringfence.isolation.transport.messages import MessageError
from ringfence.plugins.interface import PluginUsage
from ringfence.tensors import pytree

from ..watching import until

TRIED = {
    "start another process": ("vfork", "clone"),
    "open a connection": ("socket",),
    "signal another process": ("kill",),
    "become another user": ("setuid",),
}


@pytest.fixture
def answerer():
    running = Answerer()
    yield running
    running.close()


def told(plugin):
    """Skip where a supervisor of this machine's has the one listener that there can be."""
    detail = next(layer.detail for layer in plugin.layers if layer.name == "seccomp")
    if "cannot be told" in detail:
        pytest.skip(detail)
    return plugin


def attempts_of(plugin):
    return plugin._group.workers[0].attempts


def test_what_is_tried_while_it_is_loaded_is_counted(start):
    plugin = told(start("trying:OnImport"))
    assert pytree.decode(plugin.state_dict())["errors"] == [errno.EPERM] * 4
    kinds = {}
    for kind, count in plugin.usage.attempts.items():
        what, _, call = kind.removesuffix(")").partition(" (")
        kinds.setdefault(what, set()).add(call)
        assert count == 1
    assert kinds.keys() == TRIED.keys()
    assert all(calls & set(TRIED[what]) for what, calls in kinds.items())
    assert not plugin.usage.attempts_at_least


def test_an_error_at_load_says_what_was_tried(start, sandbox, spec):
    told(start("obedient:Halve"))
    with pytest.raises(
        PluginLoadError, match=r"tried to start another process.*become another user"
    ) as error:
        sandbox.start(spec("trying:OnImport", options={"fail": True}))
    assert "ValueError: nothing to be had" in str(error.value)


@pytest.mark.parametrize("where", ["obedient:Halve", "trying:Quiet"])
def test_probes_and_what_libraries_try_are_not_counted(start, gradients, batch, step, where):
    plugin = told(start(where))
    if "forward" in plugin.accepts:
        outputs = gradients["weight"]
        plugin.call("forward", {"batch": batch, "outputs": outputs, "loss": 1.0}, step)
    plugin.call("backward", {"gradients": gradients, "parameters": gradients}, step)
    assert plugin.usage.attempts == {}


def test_a_restart_goes_on_counting(start, gradients, step):
    plugin = told(start("trying:InHook", options={"times": 3}))
    for _ in range(2):
        plugin.call("backward", {"gradients": gradients}, step)
        plugin.restart()
    assert plugin.usage.attempts == {"become another user (setuid)": 6}


def test_many_attempts_are_refused_and_no_longer_counted_nor_heard_in_the_end(
    start, gradients, step, monkeypatch
):
    monkeypatch.setattr(attempts_module, "MAX_ANSWERED", 2 * MAX_TOLD)
    plugin = told(start("trying:InHook", options={"times": 2 * MAX_TOLD + 50}))
    plugin.call("backward", {"gradients": gradients}, step)
    assert plugin.usage.attempts == {"become another user (setuid)": MAX_TOLD}
    assert plugin.usage.attempts_at_least
    # The plugin is told as the descriptor closes, and may be done before the thread that closes it goes on.
    assert until(lambda: attempts_of(plugin).listener.closed)
    errors = pytree.decode(plugin.state_dict())["errors"]
    # The probes were answered as well.
    answered = errors.count(errno.EPERM)
    assert MAX_TOLD < answered < 2 * MAX_TOLD
    assert errors == [errno.EPERM] * answered + [errno.ENOSYS] * (len(errors) - answered)


def test_without_a_listener_the_kernel_refuses(start, sandbox, gradients, step):
    plugin = told(start("trying:InHook"))
    sandbox.answerer.forget(attempts_of(plugin))
    plugin.call("backward", {"gradients": gradients}, step)
    assert pytree.decode(plugin.state_dict())["errors"] == [errno.ENOSYS]
    assert plugin.usage.attempts == {}


def test_a_host_that_does_not_answer_lets_nothing_through_and_the_deadline_holds(
    start, sandbox, gradients, step
):
    plugin = told(start("trying:InHook", deadline_s=0.5))
    pid = plugin._group.workers[0].channel.process.pid
    with sandbox.answerer._lock, pytest.raises(PluginTimeoutError):
        plugin.call("backward", {"gradients": gradients}, step)
    assert not Path(f"/proc/{pid}").exists()


def test_a_listener_is_closed_with_its_worker(start, sandbox):
    plugin = told(start("trying:InHook"))
    attempts = attempts_of(plugin)
    plugin._group.workers[0].channel.process.kill()
    plugin._group.workers[0].channel._reap(plugin._group.workers[0].channel.process)
    assert until(lambda: attempts.listener.closed)
    assert attempts not in sandbox.answerer._watched.values()


def test_what_is_no_listener_is_turned_away_and_closed(answerer):
    reader, writer = os.pipe()
    with pytest.raises(MessageError, match="something else than a listener"):
        answerer.watch(reader, os.getpid(), PluginUsage())
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


OTHER = textwrap.dedent("""
    import errno, os, socket, sys
    import seccompy
    with socket.socket(fileno=int(sys.argv[1])) as told:
        rules = seccompy.Filter(flags=seccompy.FilterFlag.NEW_LISTENER)
        rules.notify("setuid")
        listener = rules.load()
        socket.send_fds(told, [b"x"], [listener.fileno()])
        listener.close()
        try:
            os.setuid(os.getuid())
        except OSError as error:
            told.send(errno.errorcode[error.errno].encode())
        told.recv(1)
""")


def test_a_listener_of_another_process_is_answered_and_not_believed(answerer):
    near, far = socket.socketpair()
    usage = PluginUsage()
    with (
        near,
        far,
        subprocess.Popen([sys.executable, "-c", OTHER, str(far.fileno())], pass_fds=(far.fileno(),)),
    ):
        far.close()
        _, (listener,), _, _ = socket.recv_fds(near, 1, 1)
        attempts = answerer.watch(listener, os.getpid(), usage)
        assert near.recv(16) == b"EPERM"
        with pytest.raises(MessageError, match="another process"):
            attempts.count_from_now()
        assert usage.attempts is None
        near.send(b"x")


def test_a_child_of_the_host_holds_no_listener(start):
    listener = attempts_of(told(start("trying:InHook"))).listener.fileno()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.fstat(listener)
            os.write(writer, b"open")
        except OSError as error:
            os.write(writer, errno.errorcode[error.errno].encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 16) == b"EBADF"
    os.fstat(listener)
    os.close(reader)
    os.close(writer)


def test_under_another_supervisor_calls_are_refused_and_cannot_be_told(confined):
    result = confined("tell", listen=True, supervised=True)
    assert result["error"] == "EPERM"
    assert result["layers"]["seccomp"] == "active"
    assert result["details"]["seccomp"].endswith("attempts cannot be told: Device or resource busy")
