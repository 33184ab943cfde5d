"""Run as a program: fork a child, confine it, do one thing inside, print what came of it as JSON.

``python confined_child.py '{"body": "probes", "skip": []}'``
"""

import contextlib
import ctypes
import errno
import importlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import refused_calls
import seccompy

from ringfence.isolation.host.processes import layer_report
from ringfence.isolation.policy import confinement, kernel, procfs
from ringfence.isolation.worker.layers import confine
from ringfence.isolation.worker.probes import run_probes

CANARY_VARIABLE = "RINGFENCE_TEST_SECRET"
MIB = 1 << 20


def probe(context, _):
    return {"probes": run_probes.run_probes(context)}


def workload(context, _):
    """Do what a plugin does with torch, numpy, threads and files."""
    import numpy as np
    import torch

    torch.set_num_threads(2)
    torch.manual_seed(0)
    a = torch.randn(256, 256)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 26 * 26, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(torch.ones(8, 1, 28, 28)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    sums = []
    thread = threading.Thread(target=lambda: sums.append((a @ a).sum().item()))
    thread.start()
    thread.join(30)
    Path("note.txt").write_text("kept")
    Path("folder").mkdir()
    with tempfile.TemporaryFile() as scratch_file:
        np.save(scratch_file, np.fft.rfft(np.arange(64.0)))
    return {
        "losses_fall": losses[-1] < losses[0],
        "threads": torch.get_num_threads(),
        "same_in_thread": sums == [(a @ a).sum().item()],
        "fft": torch.allclose(torch.fft.ifft(torch.fft.fft(a)).real, a, atol=1e-4),
        "svd": torch.allclose(torch.linalg.svdvals(a)[0], torch.linalg.matrix_norm(a, 2), rtol=1e-4),
        "inverse": bool(np.allclose(np.linalg.inv(np.eye(3) * 2), np.eye(3) / 2)),
        "files": sorted(path.name for path in Path(context.scratch).iterdir()),
        "lazy_import": __import__("wave").__name__,
        "local_time": time.localtime(0).tm_year in (1969, 1970),
    }


def leak(_, job):
    """Take 8 MiB at a time and never give back."""
    kinds = {
        "torch": lambda: sys.modules["torch"].ones(8 * MIB, dtype=sys.modules["torch"].uint8),
        "numpy": lambda: sys.modules["numpy"].ones(8 * MIB, dtype="uint8"),
        "bytearray": lambda: bytearray(8 * MIB),
        "objects": lambda: [object() for _ in range(100_000)],
    }
    kept, peak = [], 0
    take = kinds[job["kind"]]
    try:
        for _ in range(100_000):
            kept.append(take())
            peak = procfs.used_bytes(os.getpid())
            if peak > job.get("stop_at", peak):
                break
    except (MemoryError, RuntimeError) as error:
        kept.clear()
        return {"error": type(error).__name__, "peak": peak}
    return {"error": None, "peak": peak}


def talk(_, job):
    """Use the control socket as the worker does; everything else of sockets is refused."""
    with socket.socket(fileno=job["socket"]) as control:
        received = control.recvmsg(64)[0]
        control.sendmsg([b"reply to ", received])
    return {"received": received.decode()}


def system_calls(context, _):
    """Try the calls that probes may not: they differ by architecture, or end the process outside."""
    tried = {}
    for name, number in (("newer", 472), ("unheard_of", 9999), ("x32_getpid", 0x40000000 | 39)):
        tried[name] = _error(lambda number=number: kernel.syscall_number(number))
    high_bits = 1 << 32
    tried["fcntl_high_bits"] = _error(lambda: kernel.syscall("fcntl", 1, high_bits | 8, context.host_pid))
    tried["clone_new_net"] = _error(
        lambda: kernel.syscall("clone", kernel.CLONE_THREAD | kernel.CLONE_NEWNET, 0, 0, 0, 0)
    )
    tried["huge_pages"] = _error(
        lambda: kernel.syscall(
            "mmap", 0, 2 * MIB, 3, kernel.MAP_PRIVATE | kernel.MAP_ANONYMOUS | 0x40000, -1, 0
        )
    )
    path = context.in_scratch("kept")
    path.write_text("kept")
    tried["empty_by_reading"] = _error(lambda: os.open(path, os.O_RDONLY | os.O_TRUNC))
    tried["kept"] = path.read_text()
    tried["get_xattr"] = _error(lambda: os.getxattr(path, "user.none"))
    tried["kill_group"] = _error(lambda: os.kill(0, 0))
    tried["kill_all"] = _error(lambda: os.kill(-1, 0))
    tried["kill_self"] = _error(lambda: os.kill(os.getpid(), 0))
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 8192)
    tried["fallocate_by_writing"] = path.stat().st_size
    return tried


def foreign_architecture(_, __):
    """Make a 32-bit system call (mov eax, 20 = getpid; int 0x80; ret); it must end the process."""
    code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return {"returned": ctypes.CFUNCTYPE(ctypes.c_int)(address)()}


def open_files(_, __):
    """Count what is open; the folder that lists it is out of reach."""
    return {"open": sum(_error(lambda fd=fd: os.fstat(fd)) is None for fd in range(1024))}


def abort(_, __):
    os.abort()


def wait(_, __):
    """Tell our process id and live on: whoever kills our parent must end us."""
    return {"pid": os.getpid(), "linger": True}


def threads(_, job):
    """Start threads until the kernel refuses."""
    release, started = threading.Event(), []
    threading.stack_size(64 * 1024)
    try:
        for _ in range(job["most"]):
            thread = threading.Thread(target=release.wait, args=(10,))
            thread.start()
            started.append(thread)
    except RuntimeError:
        pass
    finally:
        release.set()
    return {"started": len(started)}


def try_refused(context, job):
    return {"tried": refused_calls.try_all(context, job["socket"])}


def try_allowed(context, job):
    return {"tried": refused_calls.allowed(context, job["socket"])}


def tell(_, __):
    """Make a call that is told."""
    return {"error": _error(lambda: os.setuid(os.getuid()))}


def change_mode(_, __):
    """Change the mode of a file of its own."""
    Path("own").touch()
    return {"error": _error(lambda: Path("own").chmod(0o600))}


BODIES = {
    "change_mode": change_mode,
    "try_refused": try_refused,
    "try_allowed": try_allowed,
    "tell": tell,
    "probes": probe,
    "workload": workload,
    "leak": leak,
    "talk": talk,
    "system_calls": system_calls,
    "foreign_architecture": foreign_architecture,
    "abort": abort,
    "wait": wait,
    "threads": threads,
    "open_files": open_files,
}


def _error(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno]
    return None


def child(job, folder, victim_pid, out):
    layer_job = confinement.Confinement(
        readable=(sys.prefix, sys.base_prefix, *filter(None, sys.path), *job.get("readable", ())),
        scratch=job.get("scratch", str(folder / "scratch")),
        data_limit_bytes=job.get("data_limit", 1 << 30),
        scratch_file_bytes=16 * MIB,
        max_fds=64,
        keep_fds=tuple(fd for fd in (out, job.get("socket")) if fd is not None),
        environment={"HOME": str(folder / "scratch"), "TMPDIR": str(folder / "scratch")},
        parent_pid=job.get("parent_pid", os.getppid()),
        skip=tuple(job.get("skip", ())),
        max_threads=job.get("max_threads", 64),
    )
    context = run_probes.ProbeContext(
        victim_pid,
        str(folder / "canary"),
        layer_job.scratch,
        CANARY_VARIABLE,
        layer_job.keep_fds,
        host_network=procfs.network_inode(),
    )
    if job.get("second_thread"):
        threading.Thread(target=time.sleep, args=(10,), daemon=True).start()
    started = time.perf_counter()
    try:
        statuses = confine.confine(layer_job, (lambda fd: None) if job.get("listen") else None)
    except confine.LayerError as error:
        return {"layer_error": error.layer, "reason": error.reason}
    confined = time.perf_counter()
    result = BODIES[job["body"]](context, job)
    ended = time.perf_counter()
    judged = layer_report.combine(statuses, result.get("probes", {}))
    return {
        **result,
        "layers": {status.name: status.status for status in statuses},
        "judged": {status.name: status.status for status in judged},
        "details": {status.name: status.detail for status in statuses},
        "confine_ms": (confined - started) * 1e3,
        "body_ms": (ended - confined) * 1e3,
    }


def main():
    job = json.loads(sys.argv[1])
    for module in job.get("preload", ()):
        importlib.import_module(module)
    folder = Path(job["folder"])
    (folder / "scratch").mkdir()
    (folder / "canary").write_text("secret")
    os.environ[CANARY_VARIABLE] = "secret"
    os.open(folder / "canary", os.O_RDONLY)  # left open: a child must not have it
    near = far = None
    if job["body"] in ("talk", "try_refused", "try_allowed"):
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        job["socket"] = far.detach()
        near.send(b"hello")
    confine.prepare()
    # There can be one listener: a supervisor's, as some containers have, leaves none for others.
    supervisor = seccompy.Filter(flags=seccompy.FilterFlag.NEW_LISTENER) if job.get("supervised") else None
    listener = supervisor and supervisor.load()
    reader, writer = os.pipe()
    with subprocess.Popen(["/bin/sleep", "60"]) as victim:
        pid = os.fork()
        if pid == 0:
            result = {}
            with contextlib.suppress(BaseException):
                try:
                    result = child(job, folder, victim.pid, writer)
                except Exception as error:
                    result = {"raised": repr(error)}
                    raise
                finally:
                    os.write(writer, json.dumps(result).encode())
            if result.get("linger"):
                signal.pause()
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as answers:
            if job["body"] == "wait":
                print(answers.read1().decode(), flush=True)
                victim.kill()
                signal.pause()
            result = json.loads(answers.read() or b"{}")
        _, status = os.waitpid(pid, 0)
        result["exit"] = os.waitstatus_to_exitcode(status)
        if job["body"] == "talk":
            result["reply"] = near.recv(64).decode()
        result["victim_state"] = Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[0]
        victim.kill()
    if listener:
        listener.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
