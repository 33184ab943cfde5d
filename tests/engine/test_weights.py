"""Parameters and gradients as plugins see them."""

import weakref

import pytest
import torch
from engine_helpers import (
    Sam,
    StopAt,
    Unused,
    adamw,
    asking,
    config,
    convnet,
    hooks_of,
    image_data,
    mlp,
    plain_loop,
    plugin,
    run,
    same_weights,
    sgd,
)
from torch import nn

from ringfence.engine.weights import Weights, pin, weights_sha256
from ringfence.hooks.errors import DataError, JobError

CPU = torch.device("cpu")


class Mirrored(Weights):
    """Keeps parameters and mirror apart, as on a GPU."""

    @staticmethod
    def _is_host(device):
        return False


@pytest.mark.parametrize("make_model", [mlp, convnet, Unused])
@pytest.mark.parametrize("cls", [Weights, Mirrored])
def test_laying_out_changes_no_value_and_writing_reaches_the_model(make_model, cls):
    model, before = make_model(), make_model()
    weights = cls(model, CPU)
    assert same_weights(model, before)
    assert list(weights.values) == [name for name, _ in model.named_parameters()]
    weights.write({name: value + 1 for name, value in weights.values.items()})
    for (name, parameter), old in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, old + 1)
        assert torch.equal(weights.values[name], parameter)


def test_parameters_on_the_cpu_are_the_map_itself():
    model = mlp()
    weights = Weights(model, CPU)
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == weights.values[name].data_ptr()


def test_buffers_come_from_the_given_allocator():
    made = []

    def allocate(shape, dtype):
        made.append(torch.empty(shape, dtype=dtype))
        return made[-1]

    weights = Weights(mlp(), CPU, allocate)
    assert len(made) == 2
    assert weights.values.buffer is made[0]


def test_tied_parameters_are_held_once_and_stay_tied():
    model = Unused()
    weights = Weights(model, CPU)
    assert "tied.weight" not in weights.values
    weights.write({name: value * 2 for name, value in weights.values.items()})
    assert model.tied.weight is model.middle.weight
    assert torch.equal(model.tied.weight, weights.values["middle.weight"])


def test_parameter_that_is_not_contiguous_keeps_its_layout():
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    strides = [parameter.stride() for parameter in model.parameters()]
    weights = Weights(model, CPU)
    weights.write({name: value + 1 for name, value in weights.values.items()})
    assert [parameter.stride() for parameter in model.parameters()] == strides


def test_parameters_that_overlap_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data = model[0].weight.data
    with pytest.raises(DataError, match=r"'0.weight' and '1.weight' share memory"):
        Weights(model, CPU)


class Viewed(nn.Module):
    """Has a buffer that is the second row of a parameter, and one that is another's transpose."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(4, 4)
        self.register_buffer("row", self.layer.weight.detach()[1])
        self.register_buffer("transposed", self.layer.weight.detach().t())

    def forward(self, inputs):
        return self.layer(inputs.flatten(1)[:, :4]) + self.row @ self.transposed


@pytest.mark.parametrize("cls", [Weights, Mirrored])
def test_a_buffer_that_is_part_of_a_parameter_stays_that(cls):
    model = Viewed()
    row, before = model.row, weights_sha256(model)
    weights = cls(model, CPU)
    assert weights_sha256(model) == before
    weights.write({name: value + 1 for name, value in weights.values.items()})
    assert row is model.row
    assert torch.equal(model.row, model.layer.weight[1])
    assert torch.equal(model.transposed, model.layer.weight.t())


def test_such_a_buffer_is_right_in_a_plain_loop_and_after_a_resume(tmp_path):
    # Not copies: a copy of a parameter shares no memory with anything, in plain PyTorch too.
    plain, ours, stopped, resumed = Viewed(), Viewed(), Viewed(), Viewed()
    data, settings, stop = image_data(), config(epochs=1), StopAt(4)
    plain_loop(plain, data, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), epochs=1, batch_size=8)
    run(ours, data, hooks_of(sgd()), settings)
    assert same_weights(plain, ours)
    run(stopped, data, hooks_of(sgd()), settings, observer=stop, checkpoints=tmp_path, stop=asking(stop.stop))
    run(resumed, data, hooks_of(sgd()), settings, checkpoints=tmp_path, resume=True)
    assert same_weights(resumed, ours)


def test_gradients_of_the_same_names_are_the_same_object():
    model = Unused()
    weights = Weights(model, CPU)
    maps = []
    for _ in range(3):
        model(torch.randn(2, 64)).sum().backward()
        maps.append(weights.collect_gradients())
    assert maps[0] is maps[1] is maps[2]
    assert "unused" not in maps[0]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_absent_gradient_leaves_nothing_in_the_flat_view():
    model = Unused()
    weights = Weights(model, CPU)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 5.0)
    assert len(weights.collect_gradients()) == len(weights.values)
    for name, parameter in model.named_parameters():
        parameter.grad = torch.ones_like(parameter) if name == "last" else None
    gradients = weights.collect_gradients()
    assert list(gradients) == ["last"]
    assert gradients.flat().sum() == model.last.numel()


def test_gradients_are_copied_once_the_buffer_is_asked_for():
    """A plugin that reads them by name in this process is given autograd's own; all see the same numbers."""
    model = Unused()
    weights = Weights(model, CPU)
    model(torch.randn(2, 64)).square().sum().backward()
    made = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected = {name: gradient.clone() for name, gradient in made.items() if gradient is not None}
    gradients = weights.collect_gradients()
    assert gradients["first.weight"].data_ptr() == made["first.weight"].data_ptr()
    assert not made["last"].is_contiguous()
    assert gradients["last"].is_contiguous()
    by_name = {name: gradient.clone() for name, gradient in gradients.items()}
    laid_out = gradients.clone()
    assert gradients["first.weight"].data_ptr() != made["first.weight"].data_ptr()
    for name, gradient in expected.items():
        assert torch.equal(by_name[name], gradient)
        assert torch.equal(laid_out[name], gradient)
        assert torch.equal(gradients[name], gradient)


def test_gradients_are_let_go_of_at_the_end_of_a_step():
    model = mlp()
    weights = Weights(model, CPU)
    model(torch.randn(2, 64)).sum().backward()
    made = weakref.ref(model[1].weight.grad)
    weights.collect_gradients()
    weights.release()
    assert made() is None


def test_sparse_gradients_become_dense():
    model = nn.Embedding(5, 3, sparse=True)
    weights = Weights(model, CPU)
    model(torch.tensor([1, 1])).sum().backward()
    assert weights.collect_gradients()["weight"].sum(1).tolist() == [0, 6, 0, 0, 0]


@pytest.mark.parametrize("make_plugin", [adamw, lambda: plugin(Sam)])
def test_mirror_in_host_memory_gives_the_same_weights(monkeypatch, make_plugin):
    """What a GPU needs: parameters apart from what plugins read, copied both ways."""
    shared, mirrored = convnet(), convnet()
    run(shared, image_data(), hooks_of(make_plugin()), config(snapshot_every=3))
    monkeypatch.setattr(Weights, "_is_host", staticmethod(lambda device: False))
    run(mirrored, image_data(), hooks_of(make_plugin()), config(snapshot_every=3))
    assert same_weights(shared, mirrored)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_run_equals_itself_and_comes_near_the_cpu(tmp_path):
    first, second, host = mlp(), mlp(), mlp()
    results = [
        run(model, image_data(), hooks_of(adamw()), config(device="cuda"), checkpoints=tmp_path / str(i))
        for i, model in enumerate((first, second))
    ]
    run(host, image_data(), hooks_of(adamw()), config())
    assert results[0].weights_sha256 == results[1].weights_sha256
    for a, b in zip(first.parameters(), host.parameters(), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-2, atol=1e-3)


def test_digest_covers_names_dtypes_shapes_parameters_and_buffers():
    def digest(change):
        model = convnet()
        change(model)
        return weights_sha256(model)

    changes = [
        lambda model: None,
        lambda model: model[0].bias.data.add_(1e-7),
        lambda model: model[1].running_mean.add_(1e-7),
        lambda model: model.double(),
        lambda model: setattr(model[5], "weight", nn.Parameter(model[5].weight.t().contiguous())),
        lambda model: model.append(nn.Identity()).append(nn.Linear(1, 1)),
    ]
    assert len({digest(change) for change in changes}) == len(changes)
    assert digest(changes[0]) == digest(lambda model: model.to(memory_format=torch.channels_last))


class _Runtime:
    """What CUDA's runtime answers where no more memory may be pinned; there is no GPU to have it say so."""

    def cudaHostRegister(self, address, nbytes, flags):  # noqa: N802 - its name
        return 2

    def cudaGetErrorString(self, error):  # noqa: N802
        return "out of memory"


def test_memory_that_cannot_be_pinned_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "cudart", _Runtime)
    told = r"2 MiB of parameters cannot be pinned .*: out of memory; free memory"
    with pytest.raises(JobError, match=told), pin(torch.zeros(1 << 19)):
        pass


def test_nothing_is_nothing_to_pin(monkeypatch):
    monkeypatch.setattr(torch.cuda, "cudart", _Runtime)
    with pin(torch.zeros(0)):
        pass
