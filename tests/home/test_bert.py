"""A BERT of transformers trains as it is, by the loss that it returns itself, and goes home."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ..conftest import call
from .bert_parts import ACCUMULATED, BATCH, EPOCHS, RATE, SEED

pytestmark = [pytest.mark.room, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
OPTIM = {"algorithm": "sgd", "lr": RATE, "options": {"momentum": 0.9, "foreach": False}}
TOLD = """
import json, sys, torch, ringfence
sys.path.insert(0, ".")
import bert_parts
torch.set_num_threads(1)
_, test = bert_parts.data()
inputs, _ = bert_parts.pad([test[i] for i in range(len(test))])
model = ringfence.load("run", "last")
predicted = ringfence.predict("run", inputs, checkpoint="last")
with torch.no_grad():
    same = torch.equal(model(inputs).logits, predicted.outputs)
print(json.dumps({"same": same, "test": ringfence.evaluate("run", checkpoint="last")["test"]}))
"""


@pytest.fixture(scope="module")
def folder(framework_environment, tmp_path_factory):
    """Return a folder with two runs, one of them sandboxed and one without plugins, and a loop's weights."""
    folder = tmp_path_factory.mktemp("bert")
    shutil.copy(HERE / "bert_parts.py", folder)
    python = framework_environment.python
    call(python, "bert_parts.py", "start.safetensors", cwd=folder)
    call(python, "bert_parts.py", "start.safetensors", "expected.safetensors", cwd=folder)
    sandboxed = [{"gradclip": {"max_norm": 1.0}}, {"optim": OPTIM}, {"monitor": {}, "every": 2}]
    for name, plugins in (("plain", [{"optim": OPTIM, "isolation": "trusted"}]), ("run", sandboxed)):
        job = {
            "model": "bert_parts:bert",
            "data": {"name": "bert_parts:data", "collate": "bert_parts:pad", "classes": 2, "workers": 1},
            "loss": {"name": "model", "argument": "labels"},
            "metric": "accuracy",
            "start_from": "start.safetensors",
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "grad_accum_steps": ACCUMULATED,
            "validation_fraction": 0,
            "seed": SEED,
            "threads": 1,
            "plugins": plugins,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(job))
        call(framework_environment.command, "train", f"{name}.yaml", "--out", name, cwd=folder)
    return folder


def test_without_plugins_it_ends_with_the_weights_of_a_plain_loop(folder):
    found = load_file(folder / "plain" / "model.safetensors")
    expected = load_file(folder / "expected.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_in_a_fresh_process_it_is_loaded_measured_and_predicts(framework_environment, folder):
    done = call(framework_environment.python, "-c", TOLD, cwd=folder)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["same"]
    figures = json.loads((folder / "run" / "run.json").read_text())["test_metrics"]
    assert {name: told["test"][name] for name in figures} == figures
