"""Every optimizer of torch.optim and torch_optimizer, on a small net, against the class alone.

What is found is the table in docs/optim.md.
"""

import functools
import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch_optimizer
from torch import nn

from ringfence import AnotherPass, PluginError, StepInfo, TensorMap
from ringfence.builtin.optim.algorithms import (
    COMPOSITES,
    FUSED,
    HINTS,
    MAX_DIMS,
    REFUSED,
    SHORT_NAMES,
    WRAPPERS,
)
from ringfence.builtin.optim.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin

DOCS = Path(__file__).parents[2] / "docs" / "optim.md"
STEPS = 8
WEIGHT_DECAY = 0.02
WRAPPED = {"base": "sgd", "base_options": {"momentum": 0.9}}

pytestmark = [
    # Old overloads that torch_optimizer calls, when it is used without the plugin.
    pytest.mark.filterwarnings("ignore:This overload of"),
    pytest.mark.filterwarnings("ignore:An output with one or more elements was resized"),
]


def classes():
    for module in (torch.optim, torch_optimizer):
        for name, cls in sorted(vars(module).items()):
            if (
                inspect.isclass(cls)
                and issubclass(cls, torch.optim.Optimizer)
                and cls.__name__ != "Optimizer"
            ):
                yield f"{module.__name__}.{name}"


@pytest.fixture(autouse=True)
def _looked_at_in_each_call(monkeypatch):
    """No algorithm draws that says that it does not."""
    monkeypatch.setattr("ringfence.plugins.call_context._LOOK_EVERY", 1)


PATHS = list(classes())
SHORT = {path: name for name, path in SHORT_NAMES.items()}
#: As a job spells it: the short name where there is one. Muon has both, and they differ.
ALGORITHMS = [*(SHORT.get(path, path) for path in PATHS), "torch.optim.Muon", *WRAPPERS]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 16, 5)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


def make_net():
    torch.manual_seed(3)
    return Net()


def loss_at(net, step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.rand(16, 1, 6, 6, generator=generator)
    targets = torch.randint(0, 5, (16,), generator=generator)
    net.zero_grad()
    loss = nn.functional.cross_entropy(net(inputs), targets)
    loss.backward()
    return loss


def lr_factor(step):
    return 1.0 - 0.1 * (step % 3)


# through the plugin


def plugin(algorithm):
    options = {"algorithm": algorithm}
    if algorithm in WRAPPERS:
        options["options"] = WRAPPED
    if takes(algorithm, "weight_decay"):
        options["weight_decay"] = WEIGHT_DECAY
    return LocalPlugin(
        PluginSpec(
            "optim", "ringfence", "0", "ringfence.builtin.optim", "Optim", "optimizer", options=options
        )
    )


def parameters_of(net):
    return filled(dict(net.named_parameters()))


def filled(tensors):
    laid = TensorMap.like(tensors)
    for name, tensor in tensors.items():
        laid[name].copy_(tensor.detach())
    return laid


def one_step(optim, net, parameters, step):
    point = parameters
    for pass_index in range(100):
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(point[name])
        loss = loss_at(net, step).item()
        gradients = filled({name: p.grad for name, p in net.named_parameters()})
        arguments = {"parameters": point, "gradients": gradients, "loss": loss}
        info = StepInfo(step, pass_index=pass_index, lr_factor=lr_factor(step))
        result = optim.call("backward", arguments, info)
        if not isinstance(result, AnotherPass):
            return result
        point = filled(result.parameters)
    raise AssertionError("a step has no end")


def train(optim, net, parameters, steps):
    for step in steps:
        parameters = one_step(optim, net, parameters, step)
    return parameters


# the class alone


def takes(algorithm, argument):
    if algorithm in WRAPPERS:
        algorithm = WRAPPED["base"]
    return argument in inspect.signature(class_of(algorithm)).parameters


def class_of(algorithm):
    module, _, name = SHORT_NAMES.get(algorithm, algorithm).rpartition(".")
    return getattr({"torch.optim": torch.optim, "torch_optimizer": torch_optimizer}[module], name)


def plain_optimizer(algorithm, net):
    """Build the class as a user would by hand: no decay on vectors."""
    settings = {"fused": True} if algorithm in SHORT_NAMES and SHORT_NAMES[algorithm] in FUSED else {}
    parameters = list(net.parameters())
    if not takes(algorithm, "weight_decay"):
        return class_of(algorithm)(parameters, **settings)
    matrices = [p for p in parameters if p.dim() > 1]
    vectors = [p for p in parameters if p.dim() <= 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return class_of(algorithm)(groups, weight_decay=WEIGHT_DECAY, **settings)


def train_alone(algorithm, net, steps):
    optimizer = plain_optimizer(algorithm, net)
    for step in steps:
        rates = [group.get("lr") for group in optimizer.param_groups]
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            if lr is not None:
                group["lr"] = lr * lr_factor(step)
        loss_at(net, step)
        closure = (lambda step=step: loss_at(net, step)) if algorithm == "lbfgs" else None
        optimizer.step(*([closure] if closure else []))
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            if lr is not None:
                group["lr"] = lr
    return parameters_of(net)


def train_muon_alone(net, steps):
    matrices = [nn.Parameter(p.detach().flatten(1).clone()) for p in net.parameters() if p.dim() > 1]
    vectors = [p for p in net.parameters() if p.dim() <= 1]
    muon = torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(vectors, weight_decay=0.0, fused=True)
    for step in steps:
        loss_at(net, step)
        sources = [p for p in net.parameters() if p.dim() > 1]
        for matrix, source in zip(matrices, sources, strict=True):
            matrix.grad = source.grad.flatten(1)
        for optimizer in (muon, adamw):
            optimizer.param_groups[0]["lr"] = 1e-3 * lr_factor(step)
            optimizer.step()
        with torch.no_grad():
            for matrix, source in zip(matrices, sources, strict=True):
                source.copy_(matrix.view_as(source))
    return parameters_of(net)


def train_lookahead_alone(net, steps):
    optimizer = plain_optimizer_with_momentum(net)
    slow = [p.detach().clone() for p in net.parameters()]
    for step in steps:
        optimizer_step(optimizer, net, step)
        if step % 5 == 4:
            for start, fast in zip(slow, net.parameters(), strict=True):
                start.add_(0.5 * (fast.detach() - start))
                fast.data.copy_(start)
    return parameters_of(net)


def train_sam_alone(net, steps):
    optimizer = plain_optimizer_with_momentum(net)
    for step in steps:
        loss_at(net, step)
        start = [p.detach().clone() for p in net.parameters()]
        norm = torch.stack([torch.linalg.vector_norm(p.grad) for p in net.parameters()]).square().sum().sqrt()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.05 * p.grad / norm)
        loss_at(net, step)
        with torch.no_grad():
            for p, value in zip(net.parameters(), start, strict=True):
                p.copy_(value)
        set_lr(optimizer, step)
        optimizer.step()
    return parameters_of(net)


def plain_optimizer_with_momentum(net):
    groups = [
        {"params": [p for p in net.parameters() if p.dim() > 1]},
        {"params": [p for p in net.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=WEIGHT_DECAY, fused=True)


def set_lr(optimizer, step):
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * lr_factor(step)


def optimizer_step(optimizer, net, step):
    loss_at(net, step)
    set_lr(optimizer, step)
    optimizer.step()


REFERENCES = {"muon": train_muon_alone, "lookahead": train_lookahead_alone, "sam": train_sam_alone}
#: The plain code of these orders its arithmetic in another way.
TOLERANCE = {"lookahead": 1e-6, "sam": 1e-6}


# what is found


@dataclass(frozen=True)
class Finding:
    works: bool
    equal: bool = False
    resumed: bool = False
    message: str = ""
    passes: bool = False
    scheduled: bool = True


@functools.cache
def finding(algorithm):
    torch.set_num_threads(1)
    try:
        optim = plugin(algorithm)
        half = train(optim, net := make_net(), parameters_of(net), range(STEPS // 2))
    except PluginError as error:
        return Finding(works=False, message=str(error))
    bound = optim._instance._bound
    saved = optim.state_dict()
    straight = train(optim, net, half, range(STEPS // 2, STEPS))
    fresh = plugin(algorithm)
    fresh.load_state_dict(saved)
    resumed = train(fresh, net, half, range(STEPS // 2, STEPS))
    alone = REFERENCES.get(algorithm, functools.partial(train_alone, algorithm))(make_net(), range(STEPS))
    return Finding(
        works=True,
        equal=same(straight, alone, TOLERANCE.get(algorithm, 0.0)),
        resumed=same(straight, resumed, 0.0),
        passes=bound.needs_closure,
        scheduled=any(group.get("lr") is not None for group in bound.optimizer.param_groups),
    )


def same(left, right, tolerance):
    return all(torch.allclose(left[name], right[name], rtol=0.0, atol=tolerance) for name in left)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_plugin_gives_the_weights_of_the_class_alone_and_resumes_to_them(algorithm):
    found = finding(algorithm)
    path = SHORT_NAMES.get(algorithm, algorithm)
    if path in REFUSED or (algorithm == path and (path in HINTS or path in MAX_DIMS)):
        assert not found.works
        assert reason(path) in found.message
    else:
        assert found.message == ""
        assert found.equal
        assert found.resumed


def reason(path):
    return REFUSED.get(path) or HINTS.get(path) or MAX_DIMS[path][1]


def test_docs_carry_the_table_of_which_optimizers_work():
    assert table() in DOCS.read_text(encoding="utf-8")


def table():
    rows = [row(algorithm) for algorithm in ALGORITHMS]
    head = ["| name | import path | works | note |", "| --- | --- | --- | --- |"]
    return "\n".join(head + ["| " + " | ".join(cells) + " |" for cells in rows])


def row(algorithm):
    found = finding(algorithm)
    path = SHORT_NAMES.get(algorithm, algorithm)
    name = f"`{algorithm}`" if algorithm in {*SHORT_NAMES, *WRAPPERS} else ""
    shown = "" if algorithm in WRAPPERS else f"`{path}`"
    works = "yes" if found.works and found.equal and found.resumed else "no"
    return name, shown, works, "; ".join(notes(algorithm, path, found))


def notes(algorithm, path, found):
    if not found.works:
        yield reason(path)
        return
    if algorithm in WRAPPERS:
        yield "takes `base` and `base_options`"
    if algorithm in COMPOSITES:
        yield "weights as matrices; biases and norms by AdamW"
    if algorithm in SHORT_NAMES and path in FUSED:
        yield "`fused=True`"
    if found.passes:
        yield "further passes over the batch"
    if not found.scheduled:
        yield "has no learning rate, so the schedule does not act"


@pytest.mark.parametrize("path", sorted(REFUSED))
def test_a_refused_class_really_cannot_be_used(path):
    net = make_net()
    with pytest.raises((AttributeError, RuntimeError)):
        use_alone(path, net)


def use_alone(path, net):
    if path == "torch_optimizer.Lookahead":
        optimizer = torch_optimizer.Lookahead(torch.optim.SGD(net.parameters(), lr=0.1))
    else:
        optimizer = class_of(path)(net.parameters())
    loss_at(net, 0)
    optimizer.step()
    optimizer.state_dict()


def test_torchs_algorithms_say_that_they_never_draw_and_others_do_not():
    named = {
        algorithm: plugin(algorithm)._instance.draws for algorithm in ("adamw", "sam", "lookahead", "muon")
    }
    assert named == dict.fromkeys(named, False)
    assert plugin("lamb")._instance.draws


@pytest.mark.parametrize(
    ("algorithm", "options", "one_pass"),
    [
        ("adamw", {}, True),
        ("lamb", {}, True),
        ("torch.optim.LBFGS", {}, False),
        ("sam", {"base": "sgd"}, False),
        ("lookahead", {"base": "sgd"}, True),
        ("lookahead", {"base": "sam", "base_options": {"base": "sgd"}}, False),
    ],
)
def test_an_algorithm_that_needs_the_loss_again_does_not_say_that_one_pass_is_enough(
    algorithm, options, one_pass
):
    given = {"algorithm": algorithm, "lr": 0.1, "options": options}
    spec = PluginSpec(
        "optim", "ringfence", "0", "ringfence.builtin.optim", "Optim", "optimizer", options=given
    )
    assert LocalPlugin(spec).one_pass is one_pass


def test_every_short_name_means_a_class_that_exists():
    others = set(SHORT_NAMES.values()) - set(PATHS)
    assert others == {f"{ours.__module__}.{ours.__name__}" for ours in (ScheduleFreeAdamW, ScheduleFreeSGD)}
