"""Run the command line many times and import torch once: a process that forks one for each run.

Run as a script, it reads one JSON list a line: arguments, working directory, and file for all output. It
answers with the process id, and once that has ended with its status.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


class Runs:
    """Starts runs, each in a session of its own; a context manager."""

    def __enter__(self):
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._running = None
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    def start(self, *arguments, cwd, output):
        """Start ``ringfence`` and return its process id."""
        request = [list(map(str, arguments)), str(cwd), str(output)]
        self._server.stdin.write(f"{json.dumps(request)}\n")
        self._server.stdin.flush()
        self._running = int(self._server.stdout.readline())
        return self._running

    def wait(self):
        """Wait until the run has ended; return its status, or minus the signal that ended it."""
        status = int(self._server.stdout.readline())
        self._running = None
        return status

    def end(self):
        """Kill the run that a test has left."""
        if self._running is not None:
            os.kill(self._running, signal.SIGKILL)
            self.wait()


def serve():
    """Fork a run for each line."""
    from ringfence.imports.entry_point_autoload import forbid_autoload

    forbid_autoload()
    import ringfence.api.launched_run
    import ringfence.run.execute  # noqa: F401

    for line in sys.stdin:
        arguments, folder, output = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(arguments, folder, output)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def run(arguments, folder, output):
    """Be the command line."""
    from ringfence.cli.main import main

    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        # Whoever runs the tests in the background may have it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["ringfence", *arguments]
        main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    serve()
