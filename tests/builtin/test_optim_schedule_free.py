"""The schedule-free optimizers: the formula of the paper bit for bit, and a published one nearly."""

import pytest
import torch

from ringfence.builtin.optim.schedule_free import ScheduleFreeSGD
from ringfence.engine.schedules import Constant
from ringfence.hooks.types import StepInfo
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

from .test_optim_modes import alone, backward, laid_out, net, plugin, start, train, write

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 40
SETTINGS = {
    "schedule_free_adamw": {"lr": 0.02, "weight_decay": 0.01, "options": {"betas": [0.9, 0.99], "r": 1.0}},
    "schedule_free_sgd": {"lr": 0.5, "weight_decay": 0.01, "options": {"momentum": 0.8}},
}


def by_hand(name, steps, *, warmup=0):
    """Algorithm 1 of the paper in plain PyTorch, one tensor at a time; ends at the averages."""
    given, adam = SETTINGS[name], name == "schedule_free_adamw"
    model = net()
    x = {key: p.detach().clone() for key, p in model.named_parameters()}
    z, squares = {k: v.clone() for k, v in x.items()}, {k: torch.zeros_like(v) for k, v in x.items()}
    beta, r = (0.9, 1.0) if adam else (0.8, 0.0)
    total, highest = 0.0, 0.0
    for t in range(1, steps + 1):
        lr = given["lr"] * Constant(warmup_steps=warmup).factor(t - 1, steps)
        y = {key: x[key].lerp(z[key], 1.0 - beta) for key in x}
        write(model, y)
        backward(model, t - 1)
        highest = max(highest, lr)
        weight = t**r * highest**2.0
        total += weight
        for key, parameter in model.named_parameters():
            gradient = parameter.grad
            squares[key] = squares[key] * 0.99
            squares[key].addcmul_(gradient, gradient, value=1.0 - 0.99)
            z[key].add_(y[key], alpha=-lr * given["weight_decay"])
            if adam:
                z[key].addcdiv_(gradient, (squares[key] / (1.0 - 0.99**t)).sqrt() + 1e-8, value=-lr)
            else:
                z[key].add_(gradient, alpha=-lr)
            x[key] = x[key].lerp(z[key], weight / total)
    return laid_out(x)


def through(name, steps=STEPS, *, warmup=0, parameters=None, first=0, optim=None):
    optim = optim or plugin(name, **SETTINGS[name])
    if not warmup:
        return train(optim, parameters or start(), range(first, steps))
    found = parameters or start()
    model = net()
    for number in range(first, steps):
        step = StepInfo(number, lr_factor=Constant(warmup_steps=warmup).factor(number, steps))
        point = laid_out(optim.call("forward", {"parameters": found}, step))
        write(model, point)
        loss = backward(model, number)
        gradients = laid_out({key: p.grad for key, p in model.named_parameters()})
        found = laid_out(
            optim.call("backward", {"parameters": point, "gradients": gradients, "loss": loss}, step)
        )
    return found, None


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("name", SETTINGS)
def test_weights_are_those_of_the_formula_bit_for_bit(name, warmup):
    found, _ = through(name, warmup=warmup)
    expected = by_hand(name, STEPS, warmup=warmup)
    assert torch.equal(found.buffer, expected.buffer)
    assert not torch.equal(expected.buffer, by_hand(name, STEPS, warmup=warmup + 3).buffer)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_is_resumed_has_the_same_bits(name):
    straight, _ = through(name)
    first = plugin(name, **SETTINGS[name])
    half, _ = through(name, 15, optim=first)
    second = plugin(name, **SETTINGS[name])
    second.load_state_dict(first.state_dict())
    resumed, point = through(name, parameters=half, first=15, optim=second)
    assert torch.equal(resumed.buffer, straight.buffer)
    assert not torch.equal(point.buffer, half.buffer), "gradients were taken where it is evaluated"


@pytest.mark.parametrize(
    ("name", "published", "options"),
    [
        ("schedule_free_adamw", "ScheduleFreeAdamW", {"lr": 0.02, "weight_decay": 0.01}),
        ("schedule_free_sgd", "ScheduleFreeSGD", {"lr": 0.5}),
    ],
)
def test_a_published_implementation_comes_to_the_same_nearly(name, published, options):
    expected, trained = alone(published, options, STEPS)
    found, _ = train(plugin(name, **options), start(), range(STEPS))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5)
    assert max((expected[key] - trained[key]).abs().max().item() for key in expected) > 1e-3


def test_a_parameter_without_gradient_stays_and_a_step_without_train_is_refused():
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = ScheduleFreeSGD([used, unused], lr=0.5)
    used.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"train\(\) comes before the gradients are taken"):
        optimizer.step()
    for _ in range(3):
        optimizer.train()
        optimizer.step()
        optimizer.eval()
    assert torch.equal(unused, torch.ones(2))
    assert unused not in optimizer.state
    assert not torch.equal(used, torch.ones(2))


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("schedule_free_sgd", {"momentum": 1.0}, "momentum is 1.0; expected a number between 0 and 1"),
        ("schedule_free_adamw", {"betas": [0.9, 1.5]}, r"betas is \(0.9, 1.5\); expected numbers between"),
        ("schedule_free_adamw", {"eps": -1.0}, "eps is -1.0; expected at least 0"),
        ("schedule_free_adamw", {"warmup_steps": 3}, "has no option 'warmup_steps'"),
    ],
)
def test_an_option_out_of_range_is_told(algorithm, options, message):
    from ringfence.builtin.optim import Optim

    with pytest.raises(ValueError, match=message):
        Optim(algorithm=algorithm, options=options)


JOB = """
model: {{name: mlp, hidden: [8]}}
data: {{name: mnist10k, limit: 64}}
steps: 6
batch_size: 16
threads: 1
schedule: {{name: constant, warmup_steps: 3}}
plugins:
  - optim:
      algorithm: {algorithm}
      lr: 0.01
      groups: [{{match: "*.bias", lr: 0.02, schedule: constant}}]
    isolation: {isolation}
"""


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_a_sandbox_has_the_weights_of_the_trainer(tmp_path, algorithm):
    found = set()
    for isolation in ("sandbox", "trusted"):
        job = JOB.format(isolation=isolation, algorithm=algorithm)
        prepared = prepare(check_job(parse_yaml(job, "job")), tmp_path)
        found.add(execute(prepared, tmp_path / isolation, RunOptions(report=False)).result.weights_sha256)
    assert len(found) == 1
