"""Every trouble of the table, as a job of its own, through the command line."""

import importlib.util
import json
import math
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ringfence.engine.losses import LOSSES
from ringfence.hooks.types import derive_seed
from ringfence.reproducibility.seeding import seed_all

from ..cli.forking import Runs
from .table import ENDS, HEAD, REFUSED, TRAINS, TROUBLES

pytestmark = pytest.mark.soak

_LIMIT_S = 100.0
#: A message that is longer tells more of the trainer than of the fault.
_MOST_LINES = 10


@pytest.fixture(scope="module")
def server():
    with Runs() as running:
        yield running


class Run:
    """What became of a job."""

    def __init__(self, trouble, folder):
        self.trouble, self.folder = trouble, folder
        self.out = folder / "run"
        self.job = {
            "model": {"name": "mine:Net", **trouble.model},
            "data": {"name": "mine:data", **trouble.reads},
            "steps": 10,
            "batch_size": 16,
            "threads": 1,
            "device": "cpu",
            **trouble.job,
            "plugins": [*trouble.plugins, {"optim": trouble.optim}],
        }
        (folder / "mine.py").write_text(HEAD + trouble.net + trouble.data)
        # JSON is YAML, but for numbers that it does not have.
        text = json.dumps(self.job).replace("Infinity", ".inf").replace("NaN", ".nan")
        (folder / "job.yaml").write_text(re.sub(r'"RAW:([^"]*)"', r"\1", text))

    def start(self, server):
        output = self.folder / "output"
        pid = server.start("train", "job.yaml", "--out", "run", cwd=self.folder, output=output)
        ends = time.monotonic() + _LIMIT_S
        while Path(f"/proc/{pid}").exists() and not _is_over(pid):
            if time.monotonic() > ends:
                server.end()
                pytest.fail(f"it did not end:\n{output.read_text()}")
            time.sleep(0.02)
        self.status = server.wait()
        self.output = output.read_text()
        return self

    @property
    def record(self):
        return json.loads((self.out / "run.json").read_text())

    @property
    def metrics(self):
        lines = (self.out / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def weights(self):
        newest = max(self.out.glob("checkpoints/step-*"))
        return load_file(newest / "model.safetensors")

    def module(self):
        """Return the user's module, imported here."""
        spec = importlib.util.spec_from_file_location("mine", self.folder / "mine.py")
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found


def _is_over(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_what_becomes_of_it(trouble, server, tmp_path):
    run = Run(trouble, tmp_path).start(server)
    print(run.output)
    if trouble.becomes == TRAINS:
        assert run.status == 0
        assert run.record["status"] == "completed"
    elif trouble.becomes == REFUSED:
        assert run.status == 2
        assert not run.out.exists()
        assert len(run.output.splitlines()) <= _MOST_LINES
    else:
        assert trouble.becomes == ENDS
        assert run.status not in {0, 2}
        assert list(run.out.glob("checkpoints/step-*"))
    assert "Traceback" not in run.output
    for pattern in trouble.says:
        assert re.search(pattern, run.output)
    for pattern in trouble.never:
        assert not re.search(pattern, run.output)
    if trouble.check:
        getattr(sys.modules[__name__], trouble.check)(run)


# what a run left


def completed(run):
    assert run.record["steps"] == run.job["steps"]


def r2_is_true(run):
    """The formula in float64, on outputs of the weights that were kept."""
    mine = run.module()
    model = mine.Net(num_outputs=1)
    model.load_state_dict(run.weights)
    _, (inputs, targets) = mine.data(**run.trouble.reads)
    with torch.no_grad():
        outputs = model(inputs.float()).double()
    targets = targets.float().double()
    true = 1 - ((targets - outputs) ** 2).sum() / ((targets - targets.mean()) ** 2).sum()
    assert abs(run.record["test_metrics"]["r2"] - true.item()) < 1e-6


def best_is_finite(run):
    assert math.isfinite(run.record["best_metric"])
    assert run.record["best_step"] <= 2


def norm_counts_steps(run):
    assert int(run.weights["norm.num_batches_tracked"]) == run.job["steps"]


def row_is_a_view(run):
    assert torch.equal(run.weights["row"], run.weights["layer.weight"][0])


def names_are_plain(run):
    assert set(run.weights) == {"layer.weight", "layer.bias"}


def is_the_plain_loop(run):
    """The weights are those of plain PyTorch, bit for bit."""
    mine, job, optim = run.module(), run.job, dict(run.trouble.optim)
    (inputs, targets), _ = mine.data(**run.trouble.reads)
    seed_all(derive_seed(0, "model"))
    model = mine.Net(num_outputs=2)
    loss = job.get("loss", "cross_entropy")
    name, options = (
        (loss, {}) if isinstance(loss, str) else (loss["name"], {k: loss[k] for k in loss if k != "name"})
    )
    criterion = LOSSES[name](**options)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        trained, lr=optim["lr"], weight_decay=optim.get("weight_decay", 0.0), **optim.get("options", {})
    )
    seed_all(derive_seed(0, "run"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = plain_steps(inputs, targets, job["batch_size"], job.get("grad_accum_steps", 1))
    for _, parts in zip(range(job["steps"]), steps, strict=False):
        optimizer.zero_grad()
        total = sum(len(part_targets) for _, part_targets in parts)
        for part, part_targets in parts:
            value = criterion(model(part), part_targets)
            if len(parts) > 1:
                value = value / (total / len(part_targets))
            value.backward()
        for parameter in trained:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
        optimizer.step()
    torch.set_num_threads(threads)
    for name, tensor in model.state_dict().items():
        kept = run.weights.get(name)
        # Of tensors that share memory one name is kept.
        assert kept is None or torch.allclose(kept, tensor, rtol=1e-6, atol=1e-7), name


def plain_steps(inputs, targets, size, accumulate):
    """Yield the batches of each step, in the order of the job's seed."""
    epoch = 0
    while True:
        generator = torch.Generator().manual_seed(derive_seed(0, "order", epoch))
        for group in torch.randperm(len(inputs), generator=generator).split(size * accumulate):
            yield [(inputs[indices], targets[indices]) for indices in group.split(size)]
        epoch += 1
