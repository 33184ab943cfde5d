"""A network that is loaded gives, bit for bit, what the trainer's evaluation gave."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import ringfence
from ringfence.engine.data import Normalise
from ringfence.engine.evaluate import evaluating
from ringfence.hooks.errors import CheckpointError, DataError, JobError
from ringfence.inference import load as load_module
from ringfence.job.job_file import read_job
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare
from ringfence.tensors import tensor_file
from ringfence.tensors.tensor_file import TensorFile

JOB = """\
model: {model}
data: {data}
loss: {loss}
steps: 2
batch_size: 16
threads: 1
checkpoint_every: 1
plugins:
  - optim: {{algorithm: sgd, lr: 0.1}}
    isolation: trusted
"""

#: A function with options, a class, and one that keeps more than ``state_dict`` does.
NETS = """\
import random
import numpy as np
import torch
from torch import nn

def perceptron(input_shape, num_outputs, width, *, activation="relu"):
    make = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
    return nn.Sequential(nn.LazyLinear(width), make(), nn.Dropout(0.5), nn.Linear(width, num_outputs))

class Plain(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, width, 5), nn.BatchNorm2d(width), nn.Flatten())
        self.last = nn.Linear(576 * width, 10)

    def forward(self, inputs):
        return self.last(self.layers(inputs))

class Tied(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.first, self.second = nn.Linear(784, 784), nn.Linear(784, 784, bias=False)
        self.second.weight = self.first.weight
        self.norm, self.last = nn.BatchNorm1d(784), nn.Linear(784, num_classes)

    def forward(self, inputs):
        return self.last(self.norm(self.second(self.first(inputs.flatten(1)))))

class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(784, 10)
        self.drawn = torch.rand(10) + random.random() + np.random.rand()
        self.register_buffer("seen", torch.zeros(10), persistent=False)
        self.scale = 1.0

    def forward(self, inputs):
        if self.training:
            self.seen += inputs.mean()
            self.scale *= 1.5
        return self.last(inputs.flatten(1)) * self.scale + self.seen + self.drawn

    def get_extra_state(self):
        return {"scale": self.scale}

    def set_extra_state(self, state):
        self.scale = state["scale"]

def numbers():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 6, generator=generator) * 5 + 2
    return (x[:30], x[:30, :2]), (x[30:], x[30:, :2])
"""
MNIST = "{name: mnist10k, limit: 48}"
MODELS = {
    "mlp": ("{name: mlp, hidden: [8], dropout: 0.2}", MNIST, "cross_entropy"),
    "cnn": ("{name: cnn, width: 4}", MNIST, "cross_entropy"),
    "resnet18": ("{name: resnet18, width: 2}", MNIST, "cross_entropy"),
    "vit": ("{name: vit, dim: 8, depth: 1, heads: 2}", MNIST, "cross_entropy"),
    "function": ('{name: "nets:perceptron", width: 7, activation: tanh}', '"nets:numbers"', "mse"),
    "plain": ('{name: "nets:Plain", width: 3}', MNIST, "cross_entropy"),
    "class": ('"nets:Tied"', MNIST, "cross_entropy"),
    "keeping": ('"nets:Keeping"', MNIST, "cross_entropy"),
}

#: What a fresh process does with each of the folders: with numbers, and with bytes where the data are such.
FRESH = """\
import sys, torch, ringfence
torch.set_num_threads(1)
from safetensors.torch import load_file, save_file
for name in sys.argv[2:]:
    batch = load_file(f"{sys.argv[1]}/{name}-batch")
    found = {}
    for checkpoint in ("best", "last"):
        model = ringfence.load(f"{sys.argv[1]}/{name}", checkpoint)
        assert not model.training and not any(module.training for module in model.modules())
        with torch.no_grad():
            found |= {f"{checkpoint}-{kind}": model(inputs) for kind, inputs in batch.items()}
    save_file(found, f"{sys.argv[1]}/{name}-fresh")
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a run of each model, its test data and what the trainer's evaluation gave for them."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "nets.py").write_text(NETS)
    threads = torch.get_num_threads()
    for name, (model, data, loss) in MODELS.items():
        (folder / "job.yaml").write_text(JOB.format(model=model, data=data, loss=loss))
        prepared = prepare(read_job(folder / "job.yaml"), folder)
        execute(prepared, folder / name, RunOptions(report=False))
        network, test = prepared.setup.model, prepared.setup.data.test
        batch = test.batch(torch.arange(len(test)))
        with evaluating(network), torch.no_grad():
            outputs = network(Normalise(prepared.setup.data, torch.device("cpu"))(batch.inputs))
        stored = {"bytes": test.inputs} if test.inputs.dtype == torch.uint8 else {}
        write(folder / f"{name}-batch", {"numbers": batch.inputs, **stored})
        write(folder / f"{name}-trainer", {"outputs": outputs})
    torch.set_num_threads(threads)
    return folder


def write(path, tensors):
    path.write_bytes(TensorFile.of(tensors).to_bytes())


def read(path):
    return tensor_file.read(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)).tensors


@pytest.fixture(scope="module")
def fresh(base, tmp_path_factory):
    """Name to the outputs of a process that has only the folders."""
    done = subprocess.run(
        [sys.executable, "-c", FRESH, base, *MODELS],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {name: read(base / f"{name}-fresh") for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_in_a_fresh_process_are_the_trainers_to_the_bit(base, fresh, name):
    expected = read(base / f"{name}-trainer")["outputs"]
    kinds = read(base / f"{name}-batch").keys()

    for kind in kinds:
        # Only its end was evaluated, so that the best is the last.
        assert torch.equal(fresh[name][f"last-{kind}"], expected)
        assert torch.equal(fresh[name][f"best-{kind}"], expected)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("harm", ["weights", "normalisation"])
def test_the_comparison_sees_a_model_that_is_not_quite_the_same(base, tmp_path, harm):
    run = shutil.copytree(base / "cnn", tmp_path / "run")
    model = ringfence.load(run)
    if harm == "weights":
        with torch.no_grad():
            model.network.head[-1].bias[0] = torch.nextafter(
                model.network.head[-1].bias[0], torch.tensor(9.0)
            )
    else:
        model.mean += 1e-7
    with torch.no_grad():
        outputs = model(read(base / "cnn-batch")["bytes"])

    assert not torch.equal(outputs, read(base / "cnn-trainer")["outputs"])


def test_a_model_says_what_its_classes_are_and_holds_the_network_without_normalisation(base):
    model = ringfence.load(base / "cnn", "last")
    inputs = read(base / "cnn-batch")["numbers"]

    assert model.class_names == tuple("0123456789")
    assert model.record.model.name == "cnn"
    with torch.no_grad():
        assert torch.equal(model.network((inputs - model.mean) / model.std), model(inputs))


def test_loading_draws_no_random_number_and_leaves_no_gradient(base):
    before = torch.get_rng_state()
    model = ringfence.load(base / "keeping")

    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("cnn", torch.zeros(1, 28, 28), r"takes batches, \(B, 1, 28, 28\): one sample is x\[None\]"),
        ("function", torch.zeros(2, 6, dtype=torch.uint8), "are bytes, and the model was trained on float32"),
    ],
)
def test_inputs_of_another_form_are_told(base, name, inputs, message):
    with pytest.raises(DataError, match=message):
        ringfence.load(base / name)(inputs)


def test_a_class_that_has_changed_since_is_told_by_its_tensors(base, tmp_path, monkeypatch):
    (tmp_path / "changed.py").write_text(
        NETS.replace("nn.Linear(784, 10)", "nn.Linear(784, 11)").replace('"seen"', '"noticed"')
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        ringfence.load(base / "keeping", code="changed:Keeping")

    for told in (
        "model 'changed:Keeping' has changed since the run",
        "'last.weight' is (10, 784) float32 in the run and (11, 784) float32 now",
        "'seen' (10,) float32 is there no more",
        "'noticed' (10,) float32 is new",
    ):
        assert told in str(raised.value)


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(base, tmp_path):
    run = shutil.copytree(base / "mlp", tmp_path / "run")
    path = run / "checkpoints/step-00000002/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.warns(RuntimeWarning, match="step-00000002 is damaged.*taking step-00000001 in its place"):
        ringfence.load(run, "last")
    with pytest.raises(CheckpointError, match="step-00000002 is damaged"):
        ringfence.load(run, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ringfence.load(run, 1)


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no model\.json"):
        ringfence.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": [65536] * 250}, r"has changed since the run.*and 499 more"),
        ({"hidden": [2**40]}, "hidden"),
        ({"hidden": 3}, "hidden"),
        ({"no": 3}, "no"),
    ],
)
def test_a_record_that_asks_for_a_huge_or_impossible_network_is_refused_without_memory(
    base, tmp_path, options, message
):
    run = shutil.copytree(base / "mlp", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    told = json.loads((run / "model.json").read_text())
    told["model"]["options"] = options
    (run / "model.json").write_text(json.dumps(told))

    with pytest.raises((CheckpointError, JobError), match=message):
        ringfence.load(run, "last")


def test_the_lines_of_plain_torch_on_the_page_give_the_same_accuracy(base, monkeypatch):
    """And without the normalisation they do not, which shows that it is looked at."""
    page = (Path(__file__).parents[2] / "docs/load.md").read_text()
    _, lines = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.syspath_prepend(base)
    import nets

    run, images = base / "plain", read(base / "plain-batch")["bytes"]
    names = {"Net": nets.Plain, "images": images}
    exec(lines.replace("runs/job-1", str(run)), names)  # noqa: S102 - what the page shows
    outputs = names["outputs"].detach()

    assert torch.equal(outputs, read(base / "plain-trainer")["outputs"])
    assert not torch.equal(names["network"](images / 255.0), outputs)


@pytest.mark.parametrize("ahead", [16, 2**60])
def test_what_is_read_while_a_network_is_built_is_what_would_be_read_after(
    base, tmp_path, monkeypatch, ahead
):
    """With no memory for that, it is read once the network says how large it is."""
    shutil.copytree(base / "class", tmp_path / "run")
    path = tmp_path / "run/checkpoints/step-00000002/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    expected = ringfence.load(base / "class", 1, code="nets:Tied").state_dict()

    monkeypatch.setattr(load_module, "_AHEAD", ahead)
    with pytest.warns(RuntimeWarning, match="is damaged") as told:
        found = ringfence.load(tmp_path / "run", "last", code="nets:Tied").state_dict()

    assert len(told) == 1
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_class_that_cannot_be_built_is_told_before_weights_that_cannot_be_read(base, tmp_path):
    shutil.copytree(base / "class", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    for path in (tmp_path / "run").glob("*.safetensors"):
        path.unlink()

    with pytest.raises(JobError, match="missing_module"):
        ringfence.load(tmp_path / "run", code="missing_module:Net")


@pytest.mark.parametrize("checkpoint", ["bst", "LAST", "2", None, -1, True, 1.0])
def test_a_state_that_there_cannot_be_is_refused_and_never_taken_for_the_best(base, checkpoint):
    with pytest.raises(JobError, match="expected 'best', 'last' or a number of steps"):
        ringfence.load(base / "mlp", checkpoint)
    with pytest.raises(JobError, match="weights is 'emma'; expected 'model', 'ema' or 'swa'"):
        ringfence.load(base / "mlp", weights="emma")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda x: (255 * x).long(),
            "the inputs are int64; the model takes uint8 from 0 to 255, or float32 from 0",
        ),
        (lambda x: x.double(), "the inputs are float64; the model takes"),
        (lambda x: x > 0.5, "the inputs are bool"),
        (
            lambda x: x.permute(0, 2, 3, 1),
            r"with 1 channels before height and width: x.permute\(0, 3, 1, 2\)",
        ),
        (lambda x: x[0], r"one sample is x\[None\]"),
        (lambda x: x.numpy(), "are a ndarray; the model takes a tensor .*torch.from_numpy"),
    ],
)
def test_inputs_that_would_give_wrong_numbers_or_a_raw_error_are_told(base, change, told):
    model, inputs = ringfence.load(base / "mlp"), torch.rand(2, 1, 28, 28)
    model(inputs)

    with pytest.raises(DataError, match=told):
        model(change(inputs))


def test_a_model_made_double_takes_doubles(base):
    model, inputs = ringfence.load(base / "mlp"), torch.rand(2, 1, 28, 28)
    expected = model(inputs)

    torch.testing.assert_close(model.double()(inputs.double()).float(), expected)
