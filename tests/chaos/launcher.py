"""A process that has imported all that a run needs, and forks one for each run: importing takes seconds.

It runs no operation of torch, so that a fork of it may use threads. Started with the folder of the
harness's plugins and the number of runs at a time; each line of its input is a task, as JSON, and each
line of its output the folder of one that has ended. At the end of its input it ends what still runs.
"""

import importlib
import json
import os
import select
import signal
import sys
import traceback

from . import processes

#: What the command imports on its way through a run.
_IMPORTED = (
    "ringfence.cli.app",
    "ringfence.api.launched_run",
    "ringfence.run.execute",
    "ringfence.report.page",
    "jinja2",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "tensorboard.summary.writer.event_file_writer",
    "torchmetrics",
)
_LOOK_MS = 20


def main():
    """Serve until the input ends."""
    site, at_a_time = sys.argv[1], int(sys.argv[2])
    sys.path.append(site)
    for name in _IMPORTED:
        importlib.import_module(name)
    from . import case

    poll = select.poll()
    poll.register(0, select.POLLIN)
    waiting, running, text = [], {}, b""
    while True:
        if poll.poll(_LOOK_MS):
            read = os.read(0, 1 << 16)
            if not read:
                break
            *lines, text = (text + read).split(b"\n")
            waiting += [json.loads(line) for line in lines]
        while waiting and len(running) < at_a_time:
            task = waiting.pop(0)
            running[_fork(case, task)] = task["folder"]
        for pid in [each for each in processes.collect() if each in running]:
            os.write(1, f"{running.pop(pid)}\n".encode())
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _fork(case, task):
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        processes.die_with(parent)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        case.main(task)
        status = 0
    except BaseException:  # noqa: BLE001 - the last frame of the process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
