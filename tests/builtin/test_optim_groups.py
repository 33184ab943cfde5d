"""Groups by name with settings and schedules of their own, for every algorithm, against torch's groups."""

import functools

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ringfence.builtin.optim import Optim
from ringfence.builtin.optim.algorithms import COMPOSITES, FUSED, SHORT_NAMES
from ringfence.builtin.optim.wrappers import MuonWithAdamW
from ringfence.engine.schedules import Cosine, StepDecay
from ringfence.hooks.errors import PluginError
from ringfence.hooks.types import StepInfo
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare
from ringfence.tensors import pytree

from .test_optim_algorithms import class_of, filled, parameters_of, same, takes

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:This overload of"),
    pytest.mark.filterwarnings("ignore:An output with one or more elements was resized"),
]

STEPS, LR = 6, 2e-3
#: The three groups that the plugin is to make: what a job says, and which parameters.
HEAD, BIASES = Cosine(warmup_steps=2), StepDecay(every_steps=2, gamma=0.5)
#: Those that take one group only, whatever is in it; and those without a learning rate.
ONE_GROUP, NO_RATE = {"lbfgs"}, {"a2gradexp", "a2gradinc", "a2graduni"}
#: Of those with modes another file has the loop.
ALGORITHMS = sorted(
    name for name in SHORT_NAMES.keys() - ONE_GROUP - NO_RATE if not name.startswith("schedule_free")
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.encoder = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.encoder(x)).tanh())


def job_factor(step):
    return 1.0 - 0.1 * (step % 3)


def loss_at(net, step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.rand(8, 6, generator=generator)
    net.zero_grad()
    loss = nn.functional.cross_entropy(net(inputs), inputs[:, :3].argmax(1))
    loss.backward()
    return loss.item()


def plugin(algorithm, extra=None):
    decay = {"weight_decay": 0.0} if takes(algorithm, "weight_decay") else {}
    groups = [
        {
            "match": "*.bias|norm.*",
            **decay,
            "schedule": {"name": "step", "every_steps": 2, "gamma": 0.5},
        },
        {"match": "head.*", "lr": LR / 4, "schedule": {"name": "cosine", "warmup_steps": 2}},
    ]
    options = {"algorithm": algorithm, "lr": LR, "groups": groups, **(extra or {})}
    if decay:
        options |= {"weight_decay": 0.05, "no_decay": []}
    return LocalPlugin(
        PluginSpec(
            "optim", "ringfence", "0", "ringfence.builtin.optim", "Optim", "optimizer", options=options
        )
    )


def train(optim, net, parameters, steps):
    for step in steps:
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(parameters[name])
        loss = loss_at(net, step)
        gradients = filled({name: p.grad for name, p in net.named_parameters()})
        info = StepInfo(step, steps_total=STEPS, lr_factor=job_factor(step))
        given = {"parameters": parameters, "gradients": gradients, "loss": loss}
        parameters = optim.call("backward", given, info)
    return parameters


def alone(algorithm):
    """The loop that a user writes: ``param_groups``, and a ``LambdaLR`` with a function for each."""
    net = Net()
    named = dict(net.named_parameters())
    spared = [name for name in named if name.endswith(".bias") or name.startswith("norm.")]
    decay = {"weight_decay": 0.0} if takes(algorithm, "weight_decay") else {}
    groups = [
        {"params": [named["encoder.weight"]]},
        {"params": [named[name] for name in spared], **decay},
        {"params": [named["head.weight"]], "lr": LR / 4},
    ]
    factors = [
        job_factor,
        functools.partial(BIASES.factor, steps_total=STEPS),
        functools.partial(HEAD.factor, steps_total=STEPS),
    ]
    settings = {"fused": True} if SHORT_NAMES[algorithm] in FUSED else {}
    settings |= {"weight_decay": 0.05} if decay else {}
    if algorithm in COMPOSITES:
        optimizer = MuonWithAdamW(groups, lr=LR, **settings)
        factors = [factors[0], factors[2], factors[1]]
    else:
        optimizer = class_of(algorithm)(groups, lr=LR, **settings)
    # What an algorithm finds by itself, as SWATS does, LambdaLR would overwrite.
    schedulers = [LambdaLR(optimizer, factors)] if isinstance(optimizer, torch.optim.Optimizer) else []
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(STEPS):
        loss_at(net, step)
        if not schedulers:
            for group, lr, factor in zip(optimizer.param_groups, rates, factors, strict=True):
                group["lr"] = lr * factor(step)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return parameters_of(net)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_are_those_of_torchs_groups_bit_for_bit_and_resume_to_them(algorithm):
    net = Net()
    optim = plugin(algorithm)
    half = train(optim, net, parameters_of(net), range(STEPS // 2))
    saved = pytree.decode(pytree.encode(optim._instance.state_dict()))
    found = train(optim, net, half, range(STEPS // 2, STEPS))
    fresh = plugin(algorithm)
    fresh._instance.load_state_dict(saved)
    assert same(found, train(fresh, net, half, range(STEPS // 2, STEPS)), 0.0)
    assert same(found, alone(algorithm), 0.0)
    assert not same(found, train(other := plugin(algorithm, {"groups": []}), net, half, range(3)), 0.0), other


@pytest.mark.parametrize("wrapper", ["lookahead", "sam"])
def test_a_group_of_an_algorithm_made_of_others_has_its_own_rate(wrapper):
    options = {"base": "sgd"}
    optim = Optim(
        algorithm=wrapper,
        lr=1.0,
        options=options,
        groups=[{"match": "*.bias", "schedule": {"name": "step", "every_steps": 1, "gamma": 0.5}}],
    )
    bound = optim._bind(parameters_of(Net()))
    with bound.scaled_lr(StepInfo(3, steps_total=STEPS, lr_factor=0.5)):
        rates = {len(group["params"]): group["lr"] for group in bound.optimizer.param_groups}
    assert rates == {len(bound._names[0]): 0.5, len(bound._names[1]): 0.125}


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("cosin", "group 'head.*': schedule 'cosin' is unknown; choose one of"),
        ("plateau", "group 'head.*': schedule 'plateau' needs evaluations"),
        ({"name": "cosine", "warmup": 2}, "group 'head.*': schedule 'cosine' has no option 'warmup'"),
        ({"warmup_steps": 2}, "group 'head.*': a schedule is {'warmup_steps': 2}; write a name, or"),
        (3, "group 'head.*': a schedule is 3; write a name"),
    ],
)
def test_a_schedule_that_no_group_can_have_is_told_when_the_plugin_is_made(schedule, message):
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        Optim(algorithm="adamw", groups=[{"match": "head.*", "schedule": schedule}])


def test_an_algorithm_without_a_rate_has_no_schedule_either():
    with pytest.raises(ValueError, match="sets a schedule, and the algorithm has no learning rate"):
        Optim(algorithm="a2gradexp", groups=[{"match": "head.*", "schedule": "cosine"}])


def test_a_loop_that_does_not_say_how_long_it_is_is_told_that_a_group_needs_it():
    optim = plugin("sgd")
    net = Net()
    given = {"parameters": parameters_of(net), "gradients": parameters_of(net), "loss": 0.0}
    with pytest.raises(PluginError, match="needs steps_total, the number of steps"):
        optim.call("backward", given, StepInfo(0))


JOB = """
model: {{name: mlp, hidden: [8]}}
data: {{name: mnist10k, limit: 64}}
steps: 5
batch_size: 16
threads: 1
schedule: {{name: cosine, warmup_steps: 2}}
plugins:
  - optim:
      algorithm: adamw
      lr: 0.01
      groups:
        - {{match: "*.bias", weight_decay: 0, lr: 0.05, schedule: {{name: linear, warmup_steps: 1}}}}
    isolation: {isolation}
"""


def test_a_sandbox_has_the_groups_and_schedules_of_the_trainer(tmp_path):
    found = {}
    for isolation, change in (("sandbox", ""), ("trusted", ""), ("other", "trusted")):
        job = JOB.format(isolation=change or isolation)
        if change:
            job = job.replace(", schedule: {name: linear, warmup_steps: 1}", "")
        prepared = prepare(check_job(parse_yaml(job, "job")), tmp_path)
        outcome = execute(prepared, tmp_path / isolation, RunOptions(report=False))
        found[isolation] = outcome.result.weights_sha256
    assert found["sandbox"] == found["trusted"] != found["other"]
