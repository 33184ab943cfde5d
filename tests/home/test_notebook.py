"""The main job from the command, a script and a real notebook: the same weights, and nothing is left."""

import json
import re
import sys

import pytest

from ..conftest import ROOT, call

pytestmark = [pytest.mark.room, pytest.mark.timeout(1500)]

WHOLE = (ROOT / "examples" / "mnist10k.yaml").read_text()
SHORT = re.sub(r"(?m)^schedule: .*$", "schedule: constant", WHOLE.replace("epochs: 8", "steps: 60"))
JOBS = {"shortened": SHORT, "whole": WHOLE}
CHILDREN = "import os; print('children', open(f'/proc/self/task/{os.getpid()}/children').read().split())"
SCRIPT = f"""\
import ringfence

print("at module level")
run = ringfence.train("job.yaml", out="script")
print("weights", run.weights_sha256)
{CHILDREN}
"""
CELLS = [
    "import ringfence\nrun = ringfence.train('job.yaml', out='notebook')\nrun",
    "steps, losses = run.metrics['train']['loss']\nprint('steps', len(steps), 'weights', run.weights_sha256)",
    f"again = ringfence.train('job.yaml', out='again', steps=60, progress=False)\n{CHILDREN}",
]
#: What the button that interrupts a kernel does, once there is something to keep.
INTERRUPTED = [
    """\
import os, pathlib, ringfence, signal, threading, time
def interrupt():
    metrics = pathlib.Path("long/metrics.jsonl")
    while not metrics.exists() or metrics.read_text().count('"train"') < 5:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
ringfence.train("job.yaml", out="long", steps=10**6)""",
    "run = ringfence.open_run('long')\nprint(run.status, max(run.checkpoints) >= 5)",
    "print(ringfence.train(out='long', resume=True, steps=max(run.checkpoints) + 1, progress=False).status)",
    CHILDREN,
]
#: Runs in the environment of the kernel.
RUN_NOTEBOOK = """\
import json, sys, nbformat
from nbclient import NotebookClient
cells = [nbformat.v4.new_code_cell(text) for text in json.load(open("cells.json"))]
notebook = nbformat.v4.new_notebook(cells=cells)
NotebookClient(notebook, timeout=900, kernel_name="python3", allow_errors=True).execute()
nbformat.write(notebook, "done.ipynb")
"""


@pytest.fixture(scope="module")
def environment(new_environment):
    """An environment with ringfence from its wheel, and with a kernel for notebooks."""
    environment = new_environment()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", environment.python]
    call(
        *(*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", "nbclient", "ipykernel"),
        cwd=environment.folder,
    )
    return environment


def run_notebook(environment, folder, cells):
    """Run the cells in a kernel; return what each has shown: its text, its tables, and names of errors."""
    (folder / "cells.json").write_text(json.dumps(cells))
    (folder / "run_notebook.py").write_text(RUN_NOTEBOOK)
    call(environment.python, "run_notebook.py", cwd=folder, env={"HOME": str(folder)}, timeout=1200)
    shown = []
    for cell in json.loads((folder / "done.ipynb").read_text())["cells"]:
        outputs = cell["outputs"]
        text = "".join("".join(output.get("text", "")) for output in outputs)
        tables = ["".join(o["data"]["text/html"]) for o in outputs if "text/html" in o.get("data", {})]
        shown.append((text, tables, [output["ename"] for output in outputs if "ename" in output]))
    return shown


def weights(folder):
    return json.loads((folder / "run.json").read_text())["weights_sha256"]


# The whole main job, three times, takes a quarter of an hour beside others.
@pytest.mark.parametrize("job", ["shortened", pytest.param("whole", marks=pytest.mark.soak)])
def test_command_script_and_notebook_give_the_same_weights(environment, tmp_path, job):
    (tmp_path / "job.yaml").write_text(JOBS[job])
    (tmp_path / "script.py").write_text(SCRIPT)

    call(environment.command, "train", "job.yaml", "--out", "command", "--quiet", cwd=tmp_path, timeout=900)
    script = call(environment.python, "script.py", cwd=tmp_path, timeout=900).stdout
    shown = run_notebook(environment, tmp_path, CELLS)

    expected = weights(tmp_path / "command")
    assert (script.count("at module level"), script.splitlines()[-1]) == (1, "children []")
    assert f"weights {expected}" in script
    (text, tables, errors), (numbers, *_), (children, *_) = shown
    assert errors == [], text
    assert numbers.endswith(f"weights {expected}\n")
    assert "completed after" in text
    assert "sandboxed" in text
    assert "\x1b" not in text
    assert "<tr><th>status</th><td>completed</td></tr>" in tables[0]
    assert children == "children []\n"


def test_a_kernel_that_is_interrupted_keeps_a_checkpoint_and_goes_on(environment, tmp_path):
    (tmp_path / "job.yaml").write_text(JOBS["shortened"])

    (text, _, errors), (status, *_), (resumed, *_), (children, *_) = run_notebook(
        environment, tmp_path, INTERRUPTED
    )

    assert errors == ["KeyboardInterrupt"], text
    assert "continue with: ringfence.train(out='long', resume=True)" in text
    assert status == "interrupted True\n"
    assert resumed.splitlines()[-1] in {"completed", "stopped_early"}
    assert children == "children []\n"
