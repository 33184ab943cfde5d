"""Whatever a plugin does to its processes, it is measured or ended, and the others are watched on."""

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from ringfence.isolation.host.limits import account as books
from ringfence.isolation.host.limits import scratch_folder
from ringfence.isolation.host.limits.account import Account
from ringfence.isolation.host.limits.watchdog import Watchdog
from ringfence.isolation.host.limits.worker_process import Process
from ringfence.isolation.policy import procfs
from ringfence.plugins.interface import PluginUsage

from ..watching import descriptors, settled_descriptors, until

MIB = 1 << 20

RENAME = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.prctl(15, ctypes.c_char_p(bytes.fromhex(sys.argv[1])), 0, 0, 0)
"""
EAT = """
kept = bytearray(b"x") * (96 << 20)
"""
READY = """
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def watching():
    watching = Watchdog()
    yield watching
    watching.close()


@pytest.fixture
def child(watching):
    """Start a process as the watchdog sees one; it says that it is ready, and waits."""
    with contextlib.ExitStack() as stack:

        def child(code, *arguments):
            running = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", f"import sys\n{textwrap.dedent(code)}", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # as a worker has one
                )
            )
            stack.callback(running.kill)
            assert running.stdout.readline() == b"ready\n"
            log, written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            pidfd = os.pidfd_open(running.pid)
            for descriptor in (log, written, pidfd):
                stack.callback(os.close, descriptor)
            return Process(running.pid, pidfd, log)

        yield child
        # Before what stands for a process is closed.
        watching.close()


def book(*processes, mib=1024):
    return Account(mib * MIB, PluginUsage(budget_bytes=mib * MIB), list(processes))


@pytest.mark.parametrize("name", [b"x kB", b"\xff\xfe", b"RssAnon: 0 kB", b"a\nRssAnon:", b"b\rVmPTE: 9"])
def test_a_name_neither_hides_memory_nor_ends_the_watch(watching, child, name):
    process = child(RENAME + EAT + READY, name.hex())
    assert procfs.used_bytes(process.pid) > 96 * MIB
    watched = book(process, mib=64)
    watching.add(watched)
    assert until(process.has_ended)
    assert watched.exceeded_bytes > 96 * MIB
    assert watched.exceeded == ""
    assert watching.is_alive()


def test_an_account_that_cannot_be_measured_is_ended_and_the_others_are_watched(watching, child):
    odd, hungry = child(READY), child(EAT + READY)
    odd.pid = "no number\0"
    accounts = book(odd), book(hungry, mib=64)
    for each in accounts:
        watching.add(each)
    assert until(lambda: odd.has_ended() and hungry.has_ended())
    assert accounts[0].exceeded.startswith("could not be measured: ValueError")
    assert accounts[1].exceeded_bytes > 64 * MIB
    assert watching.is_alive()
    for each in accounts:  # as a sandbox does before it closes what stands for a process
        watching.remove(each)


def test_a_watch_that_ends_takes_the_plugins_with_it(watching, child, monkeypatch):
    process = child(READY)
    watched = book(process)
    watching.add(watched)
    monkeypatch.setattr(threading, "excepthook", lambda error: None)
    watching._poll = None
    assert until(process.has_ended)
    watching._threads[0].join(60)  # the hook has its say until then
    assert "no longer watched" in watched.exceeded


def test_a_stop_is_noted_too_while_a_plugin_prints_without_end(watching, child, monkeypatch):
    """Nearly all the time it then waits to read the next portion."""
    wait, stopped = watching._stopping.wait, threading.Event()

    def stopped_meanwhile(seconds):
        if threading.current_thread() is watching._threads[0] and not stopped.is_set():
            time.sleep(1.5)
            stopped.set()
        return wait(seconds)

    monkeypatch.setattr(watching._stopping, "wait", stopped_meanwhile)
    process = child(READY)
    log, written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    process.log = log
    watching.add(watched := book(process))
    os.write(written, b"line\n")
    assert stopped.wait(60)
    assert until(lambda: time.monotonic() - watching.clock.now() > 1.0)
    watching.remove(watched)
    os.close(log)
    os.close(written)


def test_a_process_whose_main_thread_ended_is_killed(watching, child):
    process = child("""
        import ctypes, threading, time
        def rest():
            time.sleep(0.2)
            print("ready", flush=True)
            time.sleep(60)
        threading.Thread(target=rest).start()
        ctypes.CDLL(None).syscall(60, 0)
    """)
    assert procfs.used_bytes(process.pid) is None
    assert procfs.threads_go_on(process.pid)
    watched = book(process)
    watching.add(watched)
    assert until(process.has_ended)
    assert watched.exceeded.startswith("went on in other threads after its main thread had ended")


def test_a_process_that_ends_with_threads_is_blamed_for_nothing(watching, child):
    process = child("""
        import os, threading, time
        for _ in range(50):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        kept = bytearray(b"x") * (256 << 20)
        print("ready", flush=True)
        time.sleep(0.3)
        os._exit(3)
    """)
    watched = book(process)
    watching.add(watched)
    assert until(process.has_ended)
    time.sleep(3 * books.INTERVAL_S)
    assert (watched.exceeded, watched.exceeded_bytes) == ("", 0)
    assert not procfs.threads_go_on(process.pid)


THREADS = """
import threading, time
for _ in range(int(sys.argv[1]) - 1):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""


def test_threads_are_counted(watching, child):
    few, many = child(THREADS + READY, "128"), child(THREADS + READY, "129")
    accounts = book(few), book(many)
    for each in accounts:
        watching.add(each)
    assert until(many.has_ended)
    assert accounts[1].exceeded == "has 129 threads in one worker; at most 128"
    assert (few.has_ended(), accounts[0].exceeded) == (False, "")


def test_a_number_that_another_process_has_now_is_not_measured(child):
    ended, other = child(READY), child(EAT + READY)
    ended.kill()
    assert until(ended.has_ended)
    ended.pid = other.pid
    watched = book(ended, mib=64)
    watched.measure()
    assert watched.exceeded_bytes == 0
    assert watched.usage.memory_bytes == 0


# files


def test_a_worker_with_too_many_files_is_killed_within_seconds(watching, child, tmp_path):
    process = child(READY)
    process.scratch = str(tmp_path)
    watched = book(process)
    watching.add(watched)
    for folder in range(10):
        (tmp_path / str(folder)).mkdir()
        for number in range(999):
            (tmp_path / str(folder) / str(number)).touch()
    time.sleep(2 * books.SCRATCH_INTERVAL_S)
    assert watched.exceeded == ""
    (tmp_path / "one more").touch()
    assert until(process.has_ended)
    assert watched.exceeded == "has over 10,000 files in its scratch folder"


def test_bytes_are_counted_as_the_disk_does(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10 * MIB)
    assert scratch_folder.look_into(str(tmp_path), max_bytes=MIB).too_much == ""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/full").write_bytes(b"x" * 2 * MIB)
    said = scratch_folder.look_into(str(tmp_path), max_bytes=MIB).too_much
    assert said == "has 2 MiB in its scratch folder; at most 1 MiB"


def test_no_link_is_followed_and_what_is_gone_is_nothing(tmp_path):
    (tmp_path / "link").symlink_to("/usr")
    os.mkfifo(tmp_path / "pipe")
    assert scratch_folder.look_into(str(tmp_path), max_files=2).too_much == ""
    assert scratch_folder.look_into(str(tmp_path / "link"), max_files=2).too_much == ""
    assert scratch_folder.look_into(str(tmp_path / "gone"), max_files=2).too_much == ""


def test_a_look_costs_no_more_than_it_may(tmp_path):
    for number in range(50):
        (tmp_path / str(number)).touch()
    before = descriptors()
    assert (
        scratch_folder.look_into(str(tmp_path), max_files=10).too_much
        == "has over 10 files in its scratch folder"
    )
    deep = tmp_path.joinpath(*"d" * 40)
    deep.mkdir(parents=True)
    assert scratch_folder.look_into(str(tmp_path)).too_much == (
        "has folders in its scratch folder nested over 32 deep"
    )
    assert settled_descriptors(before) <= before


def test_ten_thousand_files_are_counted_in_a_fraction_of_a_second(tmp_path):
    for number in range(9999):
        (tmp_path / str(number)).touch()
    started = time.thread_time()
    assert scratch_folder.look_into(str(tmp_path)).too_much == ""
    seconds = time.thread_time() - started
    print(f"{seconds * 1000:.0f} ms")
    assert seconds < 0.3


def test_threads_take_short_turns_as_long_as_somebody_watches():
    before = sys.getswitchinterval()
    first, second = Watchdog(), Watchdog()
    during = sys.getswitchinterval()
    first.close()
    first.close()
    still = sys.getswitchinterval()
    second.close()

    assert before == sys.getswitchinterval()
    assert during == still == pytest.approx(0.0002, rel=0.01)
