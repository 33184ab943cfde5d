"""A sandbox survives the loss of its zygote, says what it cannot do, and leaves nothing behind."""

import contextlib
import fcntl
import os
import resource
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

import pytest

from ringfence import PluginCrashedError, PluginLoadError, SandboxUnavailableError, StepInfo
from ringfence.imports.search_paths import import_paths
from ringfence.isolation import sandbox as pool
from ringfence.isolation.host.limits import scratch_folder
from ringfence.isolation.host.limits.owner import owner_prefix
from ringfence.isolation.sandbox import Sandbox
from ringfence.plugins.interface import PluginSpec

from ..watching import NOWHERE, descriptors, hang, is_running, settled_descriptors, until


@pytest.fixture(scope="module")
def ended():
    """Return the process id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


@pytest.fixture(scope="module")
def sandbox():
    """Return a sandbox whose zygote may be killed."""
    with Sandbox() as running:
        yield running


@contextlib.contextmanager
def forked(sandbox):
    """Fork a bare worker, and collect it in the end."""
    process, sock = sandbox.fork()
    try:
        yield process
    finally:
        process.kill()
        sandbox.reap(process)
        sock.close()
        os.close(process.pidfd)
        os.close(process.log)


def stop_zygote(sandbox):
    sandbox._zygote.kill()
    sandbox._zygote.wait()


def test_two_plugins_both_go_on_in_one_new_zygote(sandbox, start, gradients):
    plugins = [start("obedient:Halve"), start("obedient:HalveIntoNew")]
    stop_zygote(sandbox)
    for plugin in plugins:
        with pytest.raises(PluginCrashedError, match="the process that forked it too"):
            plugin.call("backward", {"gradients": gradients}, StepInfo(0))
        plugin.restart()
    generation = sandbox._zygote.generation
    for number in range(3):
        for plugin in plugins:
            assert plugin.call("backward", {"gradients": gradients}, StepInfo(number)) is not None
    assert sandbox._zygote.generation == generation


def test_a_worker_of_a_zygote_that_is_gone_is_not_asked_of_the_next(sandbox):
    with forked(sandbox) as old:
        stop_zygote(sandbox)
        with forked(sandbox) as new:
            assert new.generation == old.generation + 1
            assert sandbox.reap(old) is None
            assert not sandbox._zygote.has_ended()
            new.kill()
            assert sandbox.reap(new) == -signal.SIGKILL


def test_a_zygote_that_ends_as_it_is_asked_is_replaced_at_once(sandbox, monkeypatch):
    with forked(sandbox):
        pass
    before = sandbox._zygote.generation
    dying = sandbox._zygote
    dying.kill()
    # It dies just after it was looked at: what is left is to be told by its socket.
    monkeypatch.setattr(dying, "has_ended", iter([False, True]).__next__)
    with forked(sandbox) as process:
        assert process.generation == before + 1


def test_a_process_that_is_not_the_zygotes_is_refused_and_it_lives_on(sandbox):
    with forked(sandbox):
        assert sandbox._zygote.reap(os.getpid()) is None
        assert not sandbox._zygote.has_ended()
        with forked(sandbox) as another:
            another.kill()
            assert sandbox.reap(another) == -signal.SIGKILL


def test_a_late_reply_is_never_taken_for_another(sandbox):
    with forked(sandbox) as process:
        zygote = sandbox._zygote
        hang(zygote, 0.3)
        process.kill()
        assert sandbox.reap(process) is None
        assert zygote.has_ended()
        with forked(sandbox) as fresh:
            assert fresh.pid != process.pid
            fresh.kill()
            assert sandbox.reap(fresh) == -signal.SIGKILL


def test_a_zygote_that_hangs_is_told_and_replaced_at_the_next_fork(sandbox):
    hang(sandbox._zygote, 0.3)
    with pytest.raises(SandboxUnavailableError, match=r"did not answer within 0\.3 s"):
        sandbox.fork()
    with forked(sandbox) as process:
        assert process.generation == sandbox._zygote.generation


@pytest.mark.parametrize("limit", [resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE], ids=["fork", "pidfd"])
def test_a_process_that_cannot_be_added_is_told_and_the_zygote_goes_on(sandbox, limit):
    if limit == resource.RLIMIT_NPROC and os.geteuid() == 0:
        pytest.skip("the limit on processes does not hold for root")
    with forked(sandbox) as there:
        zygote = sandbox._zygote
        zygote.reap(os.getpid())  # once that is answered it has closed what it needed for the fork
        # The two descriptors of the request still fit, a third does not.
        taken = {int(path.name) for path in Path(f"/proc/{zygote.pid}/fd").iterdir()}
        free = [number for number in range(len(taken) + 2) if number not in taken]
        lowest = free[1] + 1 if limit == resource.RLIMIT_NOFILE else 1
        before = resource.prlimit(zygote.pid, limit, (lowest, resource.prlimit(zygote.pid, limit)[1]))
        with pytest.raises(SandboxUnavailableError, match=r"no process could be added: .*ulimit"):
            sandbox.fork()
        resource.prlimit(zygote.pid, limit, before)
        assert sandbox._zygote is zygote
        with forked(sandbox):
            there.kill()
            assert sandbox.reap(there) == -signal.SIGKILL


# ends


def threads_and_folders():
    return threading.active_count(), set(Path(tempfile.gettempdir()).glob(f"{owner_prefix()}*"))


def test_nothing_is_left_when_the_zygote_cannot_be_started(monkeypatch):
    before = threads_and_folders()
    count = descriptors()
    monkeypatch.setattr(sys, "executable", f"{NOWHERE}/python")
    with pytest.raises(SandboxUnavailableError, match="no process for plugins could be started"):
        Sandbox()
    assert threads_and_folders() == before
    assert settled_descriptors(count) <= count


def test_a_zygote_that_cannot_import_says_what_may_be_missing(monkeypatch):
    monkeypatch.setattr(sys, "path", [NOWHERE])
    with (
        Sandbox() as sandbox,
        pytest.raises(SandboxUnavailableError, match=r"as it started.*not from the current folder"),
    ):
        sandbox.fork()


def test_closing_goes_on_where_a_plugin_cannot_be_closed(spec):
    class StuckError(Exception):
        pass

    def stuck():
        raise StuckError

    before = threads_and_folders()
    sandbox = Sandbox()
    first, second = (sandbox.start(spec("obedient:Halve")) for _ in range(2))
    pids = [plugin._workers[0].channel.process.pid for plugin in (first, second)] + [sandbox._zygote.pid]
    close, second.close = second.close, stuck
    with pytest.raises(StuckError):
        sandbox.close()
    # The one that was not collected ends with the zygote, and is collected by whoever inherits it.
    assert until(lambda: not any(map(is_running, pids)))
    assert threads_and_folders() == before
    sandbox.close()
    close()
    with pytest.raises(SandboxUnavailableError, match="closed"):
        sandbox.fork()


@pytest.mark.room
def test_folders_of_any_depth_are_removed(tmp_path):
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    tree = tmp_path / "tree"
    (tree / "locked").mkdir(parents=True)
    (tree / "locked/file").write_text("x")
    (tree / "link").symlink_to(outside)
    (tree / "locked/link").symlink_to(outside)
    for number in range(2100):
        (tree / f"file{number}").touch()
        (tree / "locked" / f"folder{number}").mkdir()
    (tree / "locked").chmod(0)
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tree)
        for _ in range(5000):
            os.mkdir("d")  # noqa: PTH102 - far beyond the longest path
            os.chdir("d")
    finally:
        os.fchdir(home)
        os.close(home)
    started = time.monotonic()
    assert scratch_folder.remove_tree(tree)
    print("removed in", time.monotonic() - started, "s")
    assert not tree.exists()
    assert (outside / "kept").exists()
    assert scratch_folder.remove_tree(tree)


def test_removing_takes_no_longer_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch_folder, "_REMOVE_S", 0.0)
    for number in range(1500):
        (tmp_path / f"file{number}").touch()
    assert not scratch_folder.remove_tree(tmp_path)
    assert len(list(tmp_path.iterdir())) == 500


def test_folders_of_killed_trainers_are_swept_and_no_others(tmp_path, ended):
    stale = tmp_path / f"ringfence-{ended}-123-abc"
    (stale / "scratch-1/deep").mkdir(parents=True)
    kept = [tmp_path / name for name in (f"{owner_prefix()}abc", "ringfence-notes", f"other-{ended}-1-x")]
    # A process of another container, whose number means nothing here, holds its lock.
    kept.append(tmp_path / f"ringfence-{ended}-124-locked")
    for folder in kept:
        folder.mkdir()
    target = tmp_path / "target"
    (target / "inside").mkdir(parents=True)
    (tmp_path / f"ringfence-{ended}-125-link").symlink_to(target)
    with open(kept[-1] / "file", "w"):  # noqa: PTH123 - only to be there
        lock = os.open(kept[-1], os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert scratch_folder.sweep_stale_folders(tmp_path) == 1
    finally:
        os.close(lock)
    assert not stale.exists()
    assert all(folder.exists() for folder in kept)
    assert (target / "inside").exists()
    assert scratch_folder.sweep_stale_folders(tmp_path) == 1


KILLED = """
import os, signal, time
from ringfence.isolation.sandbox import Sandbox
sandbox = Sandbox()
time.sleep(0.5)  # the zygote has begun to import what takes seconds
print(sandbox.folder, sandbox._zygote.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_trainer_left_that_was_killed_as_its_zygote_started_ends_or_is_swept():
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as trainer:
        # Not to its end: the zygote holds the other one too.
        folder, zygote = trainer.stdout.readline().split()
        trainer.wait()
        assert until(lambda: not is_running(int(zygote)))
    left = Path(folder)
    assert left.exists()
    Sandbox().close()
    assert not left.exists()


# what the zygote imports


def run_host(code, interpreter=sys.executable, **environment):
    return subprocess.run(
        [interpreter, "-c", code],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


FORK = """
import os
from ringfence.isolation.sandbox import Sandbox
with Sandbox() as sandbox:
    process, sock = sandbox.fork()
    print(os.path.exists(f"/proc/{process.pid}"))
    sock.close(); os.close(process.pidfd); os.close(process.log)
"""


@pytest.mark.room
def test_no_entry_point_is_loaded_where_plugins_are_forked_from(tmp_path):
    metadata = tmp_path / "stranger-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[torch.backends]\nstranger = stranger:load\n")
    marker = tmp_path / "loaded"
    (tmp_path / "stranger.py").write_text(f"def load():\n    open({str(marker)!r}, 'w').close()\n")
    assert run_host("import torch", PYTHONPATH=str(tmp_path)).returncode == 0
    assert marker.exists()  # this is what torch does by itself
    marker.unlink()
    done = run_host(FORK, PYTHONPATH=str(tmp_path), TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert done.stdout == "True\n", done.stderr
    assert not marker.exists()


@pytest.mark.room
def test_packages_are_found_where_the_host_finds_them(tmp_path):
    """Python without its virtual environment has none of them but through PYTHONPATH."""
    (tmp_path / "ringfence").symlink_to(Path(pool.__file__).parents[1])
    places = os.pathsep.join((str(tmp_path), sysconfig.get_path("purelib")))
    done = run_host(FORK, interpreter=sys._base_executable, PYTHONPATH=places)
    assert done.stdout == "True\n", done.stderr


def test_search_paths_are_the_hosts_without_what_lies_about(monkeypatch, tmp_path):
    script = tmp_path / "scripts" / "train.py"
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    monkeypatch.chdir(tmp_path)
    places = ["", str(script.parent), "/user/packages", str(tmp_path), "relative", "/site", "/user/packages"]
    monkeypatch.setattr(sys, "path", places)
    assert import_paths() == ("/user/packages", "/site")


def test_plugins_never_get_more_than_they_may_have_together(spec):
    with Sandbox() as sandbox:
        running = [sandbox.start(spec("obedient:Halve", memory_fraction=0.15)) for _ in range(6)]
        with pytest.raises(PluginLoadError, match=r"together, 90% of this machine's memory; lower memory_fr"):
            sandbox.start(spec("obedient:Halve", memory_fraction=0.02))
        running[0].close()
        assert sandbox.start(spec("obedient:Halve", memory_fraction=0.15)).is_running


def test_a_share_too_small_to_start_in_names_those_that_share(spec):
    with Sandbox(plugins=90) as sandbox, pytest.raises(PluginLoadError, match="90 plugins share this mach"):
        sandbox.start(spec("obedient:Halve", memory_fraction=0.005))


def inherited_mib(plugin):
    return plugin._workers[0].channel.process.inherited_bytes >> 20


ADAMW = {"algorithm": "adamw", "lr": 0.1}


def optimizer():
    return PluginSpec("optim", "tests", "1.0", "ringfence.builtin.optim", "Optim", "optimizer", options=ADAMW)


def test_only_what_is_started_with_an_optimizer_is_forked_with_what_optimizers_import(spec):
    with Sandbox() as sandbox:
        without = inherited_mib(sandbox.start(spec("obedient:Halve")))
        assert inherited_mib(sandbox.start(optimizer())) > without + 40


def test_a_plugin_beside_an_optimizer_has_as_much_memory_left_when_it_is_started_anew(spec):
    with Sandbox(optimizer=True) as sandbox:
        plugin = sandbox.start(spec("obedient:Halve"))
        before = inherited_mib(plugin)
        sandbox.start(optimizer())
        plugin.restart()
        assert abs(inherited_mib(plugin) - before) <= 4
