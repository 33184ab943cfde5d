"""A stranger's installed plugin and the command line: it imports, prints, fails, and outlives nobody."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest

from ringfence.isolation.host.limits.cgroup import own_groups
from ringfence.isolation.sandbox import Sandbox

from ..watching import in_shared_memory, is_running
from .victims import children

JOB = """
    model: {name: mlp, hidden: [8]}
    data: {name: mnist10k, limit: 128}
    steps: 4
    batch_size: 32
    threads: 1
    plugins:
      - stranger: {}
        on_failure: disable
        deadline_s: 60
      - optim: {algorithm: sgd, lr: 0.01}
        isolation: trusted
"""

PLUGIN = """
    import builtins, os, pathlib, sys, threading, time

    builtins.stranger_was_here = True
    sys.setrecursionlimit(50_000)
    threading.Thread(target=time.sleep, args=(0.1,), daemon=True).start()
    try:
        pathlib.Path(__file__).with_name(f"imported-by-{os.getpid()}").touch()
    except OSError:
        pass

    from ringfence import passthrough


    class Stranger:
        '''Does not say what it does. <script>alert(1)</script>'''

        role = "gradient"
        forward = passthrough

        def backward(self, gradients, step):
            """
TEXT = "\x1b]0;owned\x07\x1b[2J\r\nringfence: all is well <script>alert(1)</script>"
RAISES = f"""
            print({TEXT!r})
            if step.global_step == 2:
                raise RuntimeError({TEXT!r})
"""
STAYS = """
            pathlib.Path("in-the-hook").touch()
            time.sleep(60)
"""
#: All commands that deal with a plugin, in one process.
COMMANDS = """
    import builtins, json, sys
    from ringfence.cli.app import main

    def call(*arguments, status=0):
        sys.argv = ["ringfence", *arguments]
        try:
            main()
        except SystemExit as end:
            assert (end.code or 0) == status, (arguments, end.code)

    call("plugins", "list")
    call("plugins", "show", "stranger")
    call("plugins", "check", "stranger", status=2)
    call("train", "job.yaml")
    assert "stranger" not in sys.modules
    assert not hasattr(builtins, "stranger_was_here")
    assert sys.getrecursionlimit() < 50_000
"""
#: A trainer that runs its plugin in a child, without asking the kernel to end that with it.
NAIVE = """
    import multiprocessing, time
    multiprocessing.set_start_method("fork")
    child = multiprocessing.Process(target=time.sleep, args=(30,))
    child.start()
    print(child.pid, flush=True)
    time.sleep(30)
"""


@pytest.fixture
def install(tmp_path):
    """Install the stranger's plugin where Python finds it; returns how to run Python there."""

    def install(does):
        site = tmp_path / "site"
        info = site / "stranger-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "stranger.py").write_text(
            textwrap.dedent(PLUGIN).rstrip() + textwrap.dedent(does).replace("\n", "\n        ")
        )
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\nRequires-Dist: ringfence>=0.1\n"
        )
        (info / "entry_points.txt").write_text("[ringfence.plugins]\nstranger = stranger:Stranger\n")
        (info / "RECORD").write_text("stranger.py,,\nstranger-1.0.dist-info/METADATA,,\n")
        (tmp_path / "job.yaml").write_text(textwrap.dedent(JOB))
        (tmp_path / "tmp").mkdir()
        environment = {"PYTHONPATH": str(site), "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
        return {"env": {**os.environ, "NO_COLOR": "1", **environment}, "cwd": tmp_path}

    return install


@pytest.mark.room
@pytest.mark.attack(50)
@pytest.mark.attack(35)
def test_no_command_imports_it_and_nothing_that_it_says_reaches_terminal_or_page(install, tmp_path):
    place = install(RAISES)
    script = textwrap.dedent(COMMANDS)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=150, check=False, **place
    )

    assert done.returncode == 0, done.stderr.decode()
    assert list(tmp_path.rglob("imported-by-*")) == []
    printed = (done.stdout + done.stderr).decode()
    assert "raised RuntimeError: \\x1b]0;owned\\x07\\x1b[2J" in printed.replace("\n", " ").replace("  ", " ")
    assert [c for c in printed if not c.isprintable() and c not in "\n\r"] == []
    assert not re.search(r"^ringfence: all is well", printed, re.MULTILINE)
    folder = tmp_path / "runs" / "job-1"
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "completed"
    for name in ("run.json", "report.html", "metrics.jsonl"):
        text = (folder / name).read_text()
        assert "\x1b" not in text
        assert "<script>alert(1)" not in text or name != "report.html"
    assert list((tmp_path / "tmp").glob("ringfence-*")) == []


@pytest.mark.room
@pytest.mark.control(50)
def test_whoever_imports_it_has_it_run(install, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import stranger"], timeout=60, check=False, **install(RAISES)
    )
    assert done.returncode == 0
    assert len(list(tmp_path.rglob("imported-by-*"))) == 1


@pytest.mark.attack(47)
def test_all_plugins_end_with_a_trainer_that_is_killed_in_the_middle_of_a_hook(
    install, tmp_path, monkeypatch
):
    place = install(STAYS)
    shared = in_shared_memory()
    command = [sys.executable, "-m", "ringfence", "train", "job.yaml", "--quiet"]
    with subprocess.Popen(command, **place) as trainer:
        hook = wait_for(lambda: next(iter((tmp_path / "tmp").glob("*/*/in-the-hook")), None), 60, trainer)
        below = children(trainer.pid)
        groups = groups_of(trainer.pid)
        assert len(below) == 2  # the process that plugins are forked from, and the plugin
        trainer.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        trainer.wait()
        wait_for(lambda: not any(is_running(pid) for pid in below), 60)
        print(f"all ended within {(time.monotonic() - killed) * 1000:.0f} ms")

    assert in_shared_memory() == shared
    assert hook.exists()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    Sandbox().close()
    assert list((tmp_path / "tmp").glob("ringfence-*")) == []
    assert [group for group in groups if group.exists()] == []


@pytest.mark.control(47)
def test_a_child_of_a_trainer_outlives_it_unless_the_kernel_is_told(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(NAIVE)], stdout=subprocess.PIPE, text=True
    ) as trainer:
        child = int(trainer.stdout.readline())
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
        time.sleep(1)
        try:
            assert is_running(child)
        finally:
            os.kill(child, signal.SIGKILL)


def wait_for(condition, limit_s, process=None):
    """Return what the condition comes to, once that is something."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it took too long"
        assert process is None or process.poll() is None, "it ended"
        time.sleep(0.002)
    return found


def groups_of(pid):
    """Return the control groups that a trainer has made for its plugins."""
    return {group for parent in own_groups().values() for group in parent.glob(f"**/ringfence-{pid}-*")}
