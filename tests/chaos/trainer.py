"""The trainer of one attempt: a child of the harness that becomes the command ``ringfence train``."""

import atexit
import faulthandler
import os
import signal
import sys
import threading
import traceback

from . import processes

#: Has the trainer print where its threads stand.
TELL = signal.SIGUSR1
INTERRUPTED = 130


def start(arguments, folder, log):
    """Fork a trainer and return its process id.

    Args:
        arguments: Of the command.
        folder: Its working directory.
        log: File that takes what it prints.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        processes.die_with(parent)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _redirect(log)
        faulthandler.register(TELL, all_threads=True)
        os.chdir(folder)
        status = _command(arguments)
    except BaseException:  # noqa: BLE001 - the last frame of the process
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _command(arguments):
    """Run the command as a process of its own would, its end included."""
    from ringfence.cli.main import main

    sys.argv = ["ringfence", *arguments]
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        status = INTERRUPTED
    else:
        status = 0
    threading._shutdown()
    atexit._run_exitfuncs()
    return status


def _redirect(log):
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(null)
    os.close(out)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - for as long as the process
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
