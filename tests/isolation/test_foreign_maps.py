"""Memory that is neither a process's own, nor a file's, nor the host's counts as far as it is mapped."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from ringfence import PluginMemoryError, StepInfo, TensorMap
from ringfence.hooks.permissions import Permissions, Target
from ringfence.isolation.host.limits import deleted_files
from ringfence.isolation.host.limits.foreign_maps import foreign_bytes
from ringfence.isolation.policy.procfs import used_bytes

PLUGINS = Path(__file__).parent / "plugins"
MIB = 1 << 20
SIZE = 8 * MIB
GRADIENTS = TensorMap.like({"weight": torch.ones(4)})

_KEEPER = """
import mmap, os, socket, sys
print(flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Keeper:
    """A process that maps what it is told to."""

    def __init__(self, process):
        self._process = process
        self.pid = process.pid
        process.stdout.readline()

    def do(self, code):
        """Run one line in it; returns what it printed before it was done."""
        self._process.stdin.write(f"{code}\n")
        self._process.stdin.flush()
        printed = []
        while (line := self._process.stdout.readline()) not in ("done\n", ""):
            printed.append(line)
        assert line == "done\n"
        return "".join(printed).strip()


@pytest.fixture
def keeper():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": PLUGINS}
    with subprocess.Popen([sys.executable, "-c", _KEEPER], text=True, **pipes) as process:
        yield Keeper(process)
        process.stdin.close()
        assert process.wait(30) == 0


def memfd(name):
    return f"fd = os.memfd_create({name!r}); os.ftruncate(fd, {SIZE}); kept = mmap.mmap(fd, {SIZE})"


def test_memory_of_sockets_and_shared_memory_of_nobodys_counts(keeper):
    assert foreign_bytes(keeper.pid) == 0
    keeper.do(f"kept = mmap.mmap(-1, {SIZE}, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)")
    assert foreign_bytes(keeper.pid) == SIZE
    keeper.do(memfd("hidden"))
    assert foreign_bytes(keeper.pid) == SIZE
    keeper.do(f"kept = mmap.mmap(socket.socket().detach(), {SIZE}, prot=mmap.PROT_READ)")
    assert foreign_bytes(keeper.pid) == SIZE
    keeper.do("del kept")
    assert foreign_bytes(keeper.pid) == 0


def test_its_own_memory_files_and_regions_of_the_host_do_not(keeper, tmp_path):
    file = tmp_path / "a file\nof two lines"
    file.write_bytes(bytes(SIZE))
    keeper.do(f"file = mmap.mmap(os.open({str(file)!r}, os.O_RDWR), {SIZE})")
    keeper.do(memfd("ringfence"))
    keeper.do(f"own = mmap.mmap(-1, {SIZE}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)")
    assert foreign_bytes(keeper.pid) == 0
    file.unlink()
    assert foreign_bytes(keeper.pid) == 0


def test_of_a_process_that_maps_more_than_is_looked_through_it_is_what_was_found(keeper, monkeypatch):
    keeper.do(memfd("hidden"))
    monkeypatch.setattr(deleted_files, "MAX_MAPPINGS_BYTES", 100)
    assert foreign_bytes(keeper.pid) == 0


def test_of_a_process_that_is_gone_there_is_none():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert foreign_bytes(process.pid) == 0


@pytest.fixture
def sender():
    """Send pages, whole ones that are not copied, to whoever connects; return the port."""
    zero_copy, end_of_record = 0x4000000, 0x80
    record = 15 * 4096
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.setsockopt(socket.SOL_SOCKET, 60, 1)
                pages = torch.zeros(record * 64, dtype=torch.uint8).numpy().data
                for start in range(0, len(pages), record):
                    connection.sendall(pages[start : start + record], zero_copy | end_of_record)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def test_received_pages_that_are_mapped_are_in_no_other_count(keeper, sender):
    """The control: what a connection would hold of the machine's memory if options of sockets were free."""
    keeper.do("import hungry")
    before = used_bytes(keeper.pid)
    try:
        mapped = int(keeper.do(f"print(hungry.received(socket.create_connection(('127.0.0.1', {sender}))))"))
    except ValueError:
        pytest.skip("this kernel maps nothing that was received")
    assert mapped >= MIB
    assert used_bytes(keeper.pid) - before < mapped // 2
    assert foreign_bytes(keeper.pid) >= mapped


def test_a_plugin_that_maps_what_is_nobodys_is_held_to_its_budget(start):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        permissions = Permissions((), (), (Target("127.0.0.1", port),))
        plugin = start("hungry:Mapper", options={"port": port}, permissions=permissions, memory_fraction=0.02)
        with pytest.raises(PluginMemoryError) as caught:
            plugin.call("backward", {"gradients": GRADIENTS}, StepInfo(0))
    assert caught.value.enforced_by == "watchdog"
