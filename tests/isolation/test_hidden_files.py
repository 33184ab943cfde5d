"""Files without a name, locks on files, and files that lie in memory are bounded as all others are."""

import os
import re
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
import torch

from ringfence import PluginCrashedError, PluginMemoryError, PluginRaisedError, StepInfo, TensorMap
from ringfence.hooks.permissions import Permissions, Target
from ringfence.isolation.host.limits import scratch_folder, stray_descriptors
from ringfence.isolation.host.limits.deleted_files import TooManyMappingsError, unlinked_bytes
from ringfence.isolation.host.limits.epoll_watches import MAX_WATCHES, watches
from ringfence.isolation.host.limits.file_locks import locks_by_process
from ringfence.isolation.host.limits.scratch_place import is_in_memory, scratch_parent
from ringfence.isolation.sandbox import Sandbox

from ..watching import BESIDE, Watching, until
from .loopback import deaf

PLUGINS = str(Path(__file__).parent / "plugins")
MIB = 1 << 20
GRADIENTS = TensorMap.like({"weight": torch.ones(4)})
#: What a worker writes before the watchdog has counted it, on a machine that others use too.
LATE = 2


class Disk(Watching):
    """Looks at what a file system holds every millisecond; keeps the most that was added."""

    def __init__(self, folder):
        super().__init__()
        self.peak = 0
        self._folder = folder
        self._before = self._used()

    def _used(self):
        info = os.statvfs(self._folder)
        return (info.f_blocks - info.f_bfree) * info.f_frsize

    def look(self):
        self.peak = max(self.peak, self._used() - self._before)


def least_added(folder, act, bound):
    """Return the least that a file system gained as something was done, up to three times.

    Others write there too, and what they add is not the plugin's: one past its bound is so each time.
    """
    peaks = []
    while len(peaks) < 3 and (not peaks or min(peaks) >= bound):
        with Disk(folder) as disk:
            act()
        peaks.append(disk.peak)
    print(f"at most {' MiB, '.join(f'{peak / MIB:.0f}' for peak in peaks)} MiB on the disk")
    return min(peaks)


@pytest.mark.parametrize("way", ["named", "opened", "mapped", "stores"])
def test_a_scratch_folder_is_bounded_whatever_its_files_are_called(sandbox, start, way):
    def fill():
        plugin = start("filler:Filler", options={"way": way})
        with pytest.raises(PluginCrashedError, match="at most 256 MiB") as caught:
            plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(0))
        met.append(caught)

    met = []
    bound = LATE * scratch_folder.MAX_SCRATCH_BYTES
    assert least_added(sandbox.folder, fill, bound) < bound
    caught = met[0]
    assert ("deleted files that it keeps" in str(caught.value)) == (way in ("opened", "mapped"))


@pytest.mark.parametrize("kernel", ["this", "older"])
def test_deleted_files_cannot_be_kept_on_the_way_to_a_host_that_is_busy(sandbox, start, monkeypatch, kernel):
    """It connects to a port that answers nobody, and reads no other request meanwhile."""
    if kernel == "older":
        monkeypatch.setattr(stray_descriptors, "_SO_PASSRIGHTS", 9999)

    def send():
        with deaf() as port:
            permissions = Permissions((), (), (Target("127.0.0.1", port),))
            plugin = start("filler:Filler", options={"way": "queued"}, permissions=permissions)
            with pytest.raises((PluginRaisedError, PluginCrashedError)):
                plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(0))

    bound = scratch_folder.MAX_SCRATCH_BYTES
    assert least_added(sandbox.folder, send, bound) < bound


def test_where_the_kernel_cannot_refuse_descriptors_their_sender_is_ended(sandbox, start, monkeypatch):
    """A monitor works while the trainer does, which reads its answers later."""
    monkeypatch.setattr(stray_descriptors, "_SO_PASSRIGHTS", 9999)

    def send():
        plugin = start("filler:Watcher", "monitor", options={"way": "answered"})
        plugin.post("forward", {"outputs": torch.ones(2)}, StepInfo(0))
        assert until(plugin._workers[0].channel.process.has_ended, 20)
        why = plugin._group._account.exceeded
        assert re.match(r"sent \d+ open files along with what it said, which nobody asked for", why)

    bound = scratch_folder.MAX_SCRATCH_BYTES
    assert least_added(sandbox.folder, send, bound) < bound


@pytest.mark.room
@pytest.mark.parametrize("way", ["opened", "mapped"])
def test_without_a_sandbox_deleted_files_take_what_they_want(way, tmp_path):
    code = f"import filler, sys; filler.{way}(); print(flush=True); sys.stdin.read()"
    with (
        Disk(tmp_path) as disk,
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=PLUGINS,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process,
    ):
        process.stdout.readline()
        process.stdin.close()
    assert disk.peak > 2 * scratch_folder.MAX_SCRATCH_BYTES


def test_locks_on_files_are_bounded(start):
    plugin = start("filler:Filler", options={"way": "locks"})
    with pytest.raises(PluginCrashedError, match=r"has [\d,]+ locks on files in one worker; at most 1,000"):
        plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(0))


def test_a_plugin_with_too_much_mapped_to_be_looked_through_is_ended(start):
    plugin = start("filler:Filler", options={"way": "mappings_and_wait"}, deadline_s=50.0)
    with pytest.raises(PluginCrashedError, match=r"'filler'.* has so much mapped .* longer than 4 MiB"):
        plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(0))


def test_what_epoll_watches_is_bounded(start):
    plugin = start("filler:Filler", options={"way": "watches_and_wait"}, deadline_s=50.0)
    with pytest.raises(
        PluginCrashedError, match=r"'filler'.* has epoll watch over 10,000 files in one worker"
    ):
        plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(0))


def test_what_epoll_watches_is_counted(keeper):
    process = keeper.pid
    before = watches(process)
    keeper.do(f"sys.path.append({PLUGINS!r}); import filler; kept = [filler.watches(10, 20)]")
    assert watches(process) == before + 10 * 20
    keeper.do("kept += [filler.watches() for _ in range(4)]")
    assert watches(process) == MAX_WATCHES + 1
    keeper.do("for poll, files in kept: poll.close()")
    assert watches(process) == before


def test_locks_are_counted_by_process(tmp_path):
    import fcntl

    with tempfile.TemporaryFile() as file:
        for number in range(7):
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 2 * number, 0)
        assert locks_by_process()[os.getpid()] >= 7
    assert locks_by_process(tmp_path / "nothing") == {}


# files in memory


@pytest.fixture
def memory():
    """Return a folder that lies in memory."""
    with tempfile.TemporaryDirectory(prefix=BESIDE, dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_folder_in_memory_is_told_from_one_on_a_disk(memory, tmp_path):
    if is_in_memory(tmp_path):
        pytest.skip("the folder for temporary files lies in memory here")
    assert is_in_memory(memory)
    assert not is_in_memory(tmp_path)


def test_run_folders_are_made_on_a_disk_where_there_is_one(memory, tmp_path, monkeypatch):
    if is_in_memory("/var/tmp"):  # noqa: S108 - nothing is made there
        pytest.skip("no disk for temporary files here")
    monkeypatch.setattr(tempfile, "tempdir", str(memory))
    assert not is_in_memory(scratch_parent())
    with Sandbox() as running:
        assert not is_in_memory(running.folder)


@pytest.mark.parametrize("way", ["named", "opened", "mapped", "stores"])
def test_files_that_lie_in_memory_count_as_memory(memory, spec, monkeypatch, way):
    monkeypatch.setattr(scratch_folder, "scratch_parent", lambda: memory)
    given = spec("filler:Filler", options={"way": way}, memory_fraction=0.02)
    with Sandbox(skip_layers=("cgroup",)) as running:

        def fill():
            plugin = running.start(given)
            (watchdog,) = [layer for layer in plugin.layers if layer.name == "watchdog"]
            assert "lie in memory" in watchdog.detail
            with pytest.raises((PluginCrashedError, PluginMemoryError)):
                plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(0))
            budgets.append(plugin.usage.budget_bytes)
            plugin.close()

        budgets = []
        fill()
        bound = scratch_folder.MAX_IN_MEMORY_BYTES + 0.3 * budgets[0]
        assert least_added(memory, fill, bound) < bound


# counting


@pytest.fixture
def kept(tmp_path):
    """Return a file of 1 MiB, to be deleted."""
    path = tmp_path / "kept"
    path.write_bytes(b"x" * MIB)
    return path


_KEEPER = """
import ctypes, mmap, os, sys
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Keeper:
    """A process that keeps the files that it is told to; pytest's own keeps what is printed as well."""

    def __init__(self, process, folder):
        self._process = process
        self._folder = str(folder)

    def do(self, code):
        """Run one line in it; fail unless it could."""
        self._process.stdin.write(f"{code}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    @property
    def pid(self):
        return self._process.pid

    def count(self):
        return unlinked_bytes(self._process.pid, self._folder, 64 * MIB)


@pytest.fixture
def keeper(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", _KEEPER], text=True, **pipes) as process:
        yield Keeper(process, tmp_path)
        process.stdin.close()
        assert process.wait(30) == 0


def test_deleted_files_are_counted_once_while_they_are_open_or_mapped(kept, keeper):
    assert keeper.count() == 0
    keeper.do(f"file = open({str(kept)!r}, 'r+b'); mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)")
    keeper.do("os.fsync(file.fileno())")
    assert keeper.count() == 0
    kept.unlink()
    assert keeper.count() == MIB
    keeper.do("mapped.close(); file.close()")
    assert keeper.count() == 0


def test_a_deleted_file_that_is_mapped_and_closed_counts_as_large_as_one_may_be(kept, keeper):
    keeper.do(
        "libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p; size = ctypes.c_size_t(1 << 20)"
    )
    keeper.do(f"file = open({str(kept)!r}, 'rb'); os.fsync(file.fileno())")
    # Not by Python's own module, which keeps the file open as long as it is mapped.
    keeper.do(
        "address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, file.fileno(), ctypes.c_long(0))"
    )
    keeper.do("file.close()")
    kept.unlink()
    # Only a privileged process may look at what is mapped.
    assert keeper.count() in (MIB, 64 * MIB)
    keeper.do("assert libc.munmap(ctypes.c_void_p(address), size) == 0")
    assert keeper.count() == 0


def test_of_mappings_no_more_is_read_than_a_plugin_may_have(kept, keeper, tmp_path):
    keeper.do(
        f"sys.path.append({PLUGINS!r}); import filler; path = filler.mappings({str(tmp_path)!r}, 5_000)"
    )
    kept.unlink()
    assert keeper.count() == 0
    tracemalloc.start()
    try:
        keeper.do(f"filler.mappings({str(tmp_path)!r}, 15_000)")
        with pytest.raises(TooManyMappingsError):
            keeper.count()
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_a_process_that_is_gone_keeps_no_files(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert unlinked_bytes(process.pid, str(tmp_path), MIB) == 0
