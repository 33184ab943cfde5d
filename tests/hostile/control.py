"""Run as a program: trainers without a sandbox, and beside each a plugin that attacks it.

``python control.py`` reads one JSON object a line, ``{"attack": …, "aim": {…}, "out": PATH, "limit_s": …}``,
and answers each with what became of the trainer, as JSON: ``""`` if it came through, ``"stopped"``, or
``"ended"``. Each is a process of its own, forked from one that has torch imported, and so is its attacker.

What the attacker gets is written to PATH, since a trainer may not outlive it.
The processes here are there to be harmed; nobody else's are named to the attacker.
"""

import ctypes
import importlib
import json
import mmap
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

DEADLINE_S = 20.0
#: A process that is traced for a moment is stopped for that moment.
STOPPED_S = 0.5
LOOK_S = 0.002


def main():
    sys.path.insert(0, str(Path(__file__).parent / "attacks"))
    hostile = importlib.import_module("hostile")
    for line in sys.stdin:
        sys.stdout.write(json.dumps(serve(hostile, json.loads(line))) + "\n")
        sys.stdout.flush()


def serve(hostile, task):
    """Have a trainer attacked; returns what became of it."""
    pid = os.fork()
    if pid == 0:
        be_trainer(hostile, task)
    # Open before anybody takes /proc away.
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as state:
        return watch(pid, state, task["limit_s"])


def watch(pid, state, limit_s):
    """Wait for a trainer; one that is stopped for good, or does not end, is killed."""
    ends = time.monotonic() + limit_s
    went_on = time.monotonic()
    while (status := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        now = time.monotonic()
        if os.pread(state.fileno(), 1024, 0).rpartition(b")")[2].split()[0] not in b"Tt":
            went_on = now
        if now > min(ends, went_on + STOPPED_S):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "stopped"
        time.sleep(LOOK_S)
    code = os.waitstatus_to_exitcode(status[1])
    return "ended" if code < 0 else f"exited with {code}" if code else ""


def be_trainer(hostile, task):
    """Be a trainer that starts its plugin itself, in a session and with standard streams of its own."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    status = 1
    try:
        train(hostile, task)
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def train(hostile, task):
    aim = task["aim"]
    # What a trainer has in its memory and open while it works.
    kept = "".join(aim["canary"])
    opened = os.open(f"{aim['home']}/.ssh/id_ed25519", os.O_RDONLY)
    os.dup2(opened, aim["open_fd"], inheritable=True)
    others = os.pipe(), socket.create_server(("127.0.0.1", 0))
    shared, read_only = share()
    sibling = bystander(aim["sibling_scratch"])
    aim |= {"host_pid": os.getpid(), "zygote_pid": sibling, "sibling_pid": sibling}
    attacker = os.fork()
    if attacker == 0:
        attack(hostile, task, aim)
    wait(attacker)
    os.kill(sibling, signal.SIGKILL)
    os.waitpid(sibling, 0)
    # A trainer computes with what it shares; where its pages are gone it dies here.
    return kept, others, sum(shared[:: mmap.PAGESIZE]), read_only


def share():
    """Share memory as a trainer that knows of no seals does: to be written, and mapped to be read as well."""
    fd = os.memfd_create("ringfence", os.MFD_ALLOW_SEALING)
    size = 16 * mmap.PAGESIZE
    os.ftruncate(fd, size)
    return mmap.mmap(fd, size), mmap.mmap(fd, size, prot=mmap.PROT_READ)


def attack(hostile, task, aim):
    """Attack from a process that ends with its trainer, and in a session of its own as a plugin is."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    os.chdir(aim["sibling_scratch"])
    out = Path(task["out"])
    next_out = out.with_suffix(".next")
    attempts = hostile.find(task["attack"])(hostile.Aim(**aim))
    # What is not come to is told as that.
    codes = dict.fromkeys(attempts)
    for name, attempt in attempts.items():
        codes[name] = hostile.outcome(attempt)
        # After each, and at once: the next may end this process or its trainer.
        next_out.write_text(json.dumps(codes))
        next_out.replace(out)
    os._exit(0)


def bystander(folder):
    """Fork a process that plays another plugin, and return once it is in its folder."""
    ready, tell = os.pipe()
    if (pid := os.fork()) == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
        os.chdir(folder)
        os.close(ready)
        os.close(tell)
        time.sleep(10 * DEADLINE_S)
        os._exit(0)
    os.close(tell)
    os.read(ready, 1)  # nothing: its end is closed
    os.close(ready)
    return pid


def wait(pid):
    """Collect the attacker; one that does not end is killed."""
    ends = time.monotonic() + DEADLINE_S
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > ends:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.005)


if __name__ == "__main__":
    main()
