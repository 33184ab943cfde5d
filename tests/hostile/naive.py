"""Run as a program: what becomes of a trainer that runs a plugin in its own process, as trainers do.

``python naive.py`` reads one JSON object a line, ``{"kind": …, "attack": …, "aim": {…}, "limit_s": …}``,
and answers each with one line of JSON: ``ended`` is ``""`` if the trainer came through, else how it
ended, and what was measured of it stands beside. Each runs in a process of its own, forked from one
that has torch imported, in a folder of its own. The kinds:

``trainer``   calls the plugin's ``backward`` at every step and applies what it returns
``receiver``  takes a frame by ``multiprocessing.connection``, which unpickles it
``collector`` keeps what its plugin's process prints
``acceptor``  takes the file descriptors that it is sent, as trainers do that share tensors by them
"""

import ctypes
import importlib
import json
import multiprocessing
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path

import torch

from ringfence import StepInfo

STEPS = 4
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_MS = 20


def main():
    sys.path.insert(0, str(Path(__file__).parent / "attacks"))
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(serve(json.loads(line))) + "\n")
        sys.stdout.flush()


def prctl(option, value):
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def serve(task):
    reader, writer = os.pipe()
    folder = tempfile.mkdtemp(prefix="ringfence-naive-")
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        be_trainer(task, writer, folder)
    os.close(writer)
    ended = wait(pid, task["limit_s"])
    left = collect_orphans()
    with os.fdopen(reader, "rb") as facts:
        told = json.loads(facts.read() or b"{}")
    shutil.rmtree(folder, ignore_errors=True)
    return {"left": left, **told, "ended": told.get("ended", ended or "silent")}


def wait(pid, limit_s):
    """Wait for a trainer; one that does not end, or is stopped, is killed."""
    poll = select.poll()
    pidfd = os.pidfd_open(pid)
    poll.register(pidfd, select.POLLIN)
    hung = not poll.poll(limit_s * 1000)
    os.kill(pid, signal.SIGKILL)
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if hung:
        return "hung"
    return signal.Signals(-code).name if code < 0 else f"exited {code}"


def collect_orphans():
    """End and count the processes that a trainer left behind."""
    left = 0
    while text := Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        for pid in map(int, text):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            left += 1
    return left


def be_trainer(task, out, folder):
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    torch.set_num_threads(1)
    try:
        told = KINDS[task["kind"]](task)
    except Exception as error:  # noqa: BLE001 - whatever it was, the trainer has ended by it
        told = {"ended": f"raised {type(error).__name__}", "why": traceback.format_exc()[-2000:]}
    os.write(out, json.dumps(told).encode())
    os._exit(0)


def train(task):
    hostile = importlib.import_module("hostile")
    plugin = getattr(hostile, task["plugin"])(task["attack"], task["aim"])
    torch.manual_seed(3)
    weight = torch.zeros(8, 3, requires_grad=True)
    inputs, targets = torch.rand(16, 8), torch.randint(0, 3, (16,))
    for number in range(STEPS):
        weight.grad = None
        torch.nn.functional.cross_entropy(inputs @ weight, targets).backward()
        gradients = {"weight": weight.grad}
        changed = plugin.backward(gradients, StepInfo(number))
        with torch.no_grad():
            for name, gradient in (gradients if changed is None else changed).items():
                {"weight": weight}[name].sub_(gradient, alpha=0.1)
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found = getattr(importlib.import_module(task["attack"].partition(":")[0]), "FOUND", {})
    return {
        "ended": "" if bool(weight.isfinite().all()) else "poisoned",
        "peak_mib": int(fields["VmHWM"].split()[0]) // 1024,
        "threads": int(fields["Threads"]),
        **found,
    }


def receive(task):
    """Be sent one frame by a process of a plugin's, and take it."""
    module, _, name = task["attack"].partition(":")
    ours, theirs = multiprocessing.Pipe()
    if os.fork() == 0:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        importlib.import_module(module).send_to(theirs, name)
        signal.pause()
    theirs.close()
    message = ours.recv()
    return {"ended": "executed" if Path("executed").exists() else "", "message": repr(message)[:100]}


def keep_output(task):
    """Keep what a plugin's process prints, until it closes."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(reader)
        os.close(writer)
        hostile = importlib.import_module("hostile")
        hostile.find(task["attack"])(hostile.Aim(**task["aim"]), {}, StepInfo(0))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as output:
        kept = output.read()
    return {"ended": "", "kept_mib": len(kept) >> 20}


def accept(task):
    """Take every file descriptor that a plugin's process sends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if os.fork() == 0:
        ours.close()
        importlib.import_module("floods").send_all(theirs)
        os._exit(0)
    theirs.close()
    while socket.recv_fds(ours, 64, 253)[0]:
        pass
    return {"ended": "", "fds": len(os.listdir("/proc/self/fd"))}


KINDS = {"trainer": train, "receiver": receive, "collector": keep_output, "acceptor": accept}

if __name__ == "__main__":
    main()
