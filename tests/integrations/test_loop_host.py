"""A loop that is not ours trains as a run does, over faults too, and is told where it cannot."""

import pytest
import torch
from engine_helpers import (
    FAULTS,
    HalfLoss,
    Insatiable,
    Jitter,
    Listener,
    LogsLosses,
    LookAhead,
    Momentum,
    Noise,
    OutputPenalty,
    Sam,
    Unused,
    Watcher,
    adamw,
    config,
    convnet,
    drawing_convnet,
    hooks_of,
    image_data,
    mlp,
    plugin,
    run,
    same_weights,
    sgd,
)
from torch import nn
from torch.nn import functional

import ringfence
from ringfence.engine.data import Normalise, Plan, batches
from ringfence.engine.step import Update
from ringfence.engine.weights import Weights
from ringfence.hooks.errors import CheckpointError, DataError, JobError, RunAbortedError
from ringfence.hooks.types import Batch
from ringfence.integrations.loop_batches import BatchForm
from ringfence.integrations.loop_host import LoopError, LoopHost, Settings
from ringfence.integrations.loop_report import ReportKeeper
from ringfence.integrations.open_host import plugin_host
from ringfence.plugins import failure_policy as failures
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.reproducibility.deterministic import repeatable
from ringfence.reproducibility.seeding import seed_run

CPU = torch.device("cpu")
#: Of ``config()``; the plugins of a run there have seed 0, as those of a host here.
SEED = 7


@pytest.fixture(autouse=True)
def _no_faults_left(monkeypatch):
    monkeypatch.setattr(failures, "BACK_OFF_S", (0.0, 0.0, 0.0))
    FAULTS.clear()
    yield
    assert FAULTS == []


def host_of(model, plugins, *, optimizer=None, told=None, on_report=None, form=None, **settings):
    """A host of plugins that run in this process, in which a fault costs no time."""
    keeper = ReportKeeper([].append if told is None else told.append, on_report)
    hooks = hooks_of(*plugins, observer=keeper)
    update = Update(model=model, weights=Weights(model, CPU), hooks=hooks, device=CPU, optimizer=optimizer)
    return LoopHost([], update, Settings(form or BatchForm(num_classes=4), **settings), keeper)


def trained_by_run(model, plugins, **changes):
    """Train with the engine; the loop of ``Foreign`` has to come to the same."""
    return run(model, image_data(), hooks_of(*plugins), config(**changes))


class Foreign:
    """A loop that is not ours, over the batches of a run."""

    def __init__(self, model, host, **changes):
        self.model, self.host, self.config, self.data = model, host, config(**changes), image_data()
        self.plan = Plan(len(self.data.train), self.config.batch_size, self.config.grad_accum_steps)
        self.normalise = Normalise(self.data, CPU)
        self.steps = self.config.steps_total(self.plan.steps_per_epoch)

    def loader(self):
        """What is left of the epoch."""
        first, epoch = self.host.global_step, self.plan.epoch(self.host.global_step)
        last = min(self.steps, (epoch + 1) * self.plan.steps_per_epoch)
        run_batches = batches(
            self.data.train,
            self.plan,
            self.config.seed,
            first_step=first,
            steps_total=last,
            lr_factor=lambda _: 1.0,
            as_stored=bool(self.host._hooks.at.batch.methods),
        )
        return [batch for batch, _ in run_batches]

    def train(self, until=None):
        with repeatable():
            while self.host.global_step < (until or self.steps):
                self.epoch(until or self.steps)

    def epoch(self, until):
        done = []
        for batch in self.host.augment(self.loader()):
            sizes = self.plan.sizes(self.host.global_step)
            self.backward(batch, sizes)
            done.append(batch)
            if len(done) == len(sizes):
                self.host.step(lambda done=tuple(done), sizes=sizes: [self.backward(b, sizes) for b in done])
                done = []
                if self.host.global_step == until:
                    return

    def backward(self, batch, sizes):
        outputs = self.model(self.normalise(batch.inputs))
        loss, losses = (f(outputs, batch.targets) for f in (self.config.loss, self.config.loss.per_sample))
        loss = self.host.loss(batch, outputs, loss, losses)
        (loss / (sum(sizes) / len(batch)) if len(sizes) > 1 else loss).backward()


def trained_by_loop(model, plugins, *, faults=(), **changes):
    seed_run(SEED)
    FAULTS.extend(faults)
    host = host_of(model, plugins, grad_accum_steps=changes.get("grad_accum_steps", 1))
    Foreign(model, host, **changes).train()
    return host


@pytest.mark.parametrize(
    ("make", "plugins"),
    [
        (drawing_convnet, lambda: [plugin(Jitter), plugin(Momentum), adamw(), plugin(Watcher)]),
        (convnet, lambda: [plugin(Noise), plugin(OutputPenalty), plugin(HalfLoss), sgd()]),
        (mlp, lambda: [plugin(LookAhead)]),
        (convnet, lambda: [plugin(Sam)]),
        (Unused, lambda: [plugin(LogsLosses)]),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loop_comes_to_the_weights_of_a_run(make, plugins, accumulate):
    ours, theirs = make(), make()
    trained_by_run(ours, plugins(), grad_accum_steps=accumulate)

    host = trained_by_loop(theirs, plugins(), grad_accum_steps=accumulate)

    assert same_weights(ours, theirs)
    assert host.global_step > 5


def test_other_batches_come_to_other_weights():
    ours, theirs = mlp(), mlp()
    trained_by_run(ours, [sgd()], seed=1)

    trained_by_loop(theirs, [sgd()])

    assert not same_weights(ours, theirs)


@pytest.mark.parametrize(
    ("accumulate", "faults"),
    [
        (1, [("jitter", "forward", 9)]),
        (2, [("jitter", "backward", 5)]),
        (1, [("momentum", "backward", 0), ("momentum", "backward", 7)]),
        (2, [("optim", "backward", 0)]),
        (1, [("optim", "backward", 8)] * 3),
        (2, [("jitter", "forward", 4), ("momentum", "backward", 4), ("optim", "backward", 4)]),
        (1, [("watcher", "backward", 3)]),
    ],
)
def test_faults_change_no_weights(accumulate, faults):
    def plugins():
        # The watcher is started anew as well, though it could be left out.
        watcher = plugin(Watcher, settings={"on_failure": "restart"})
        return [plugin(Jitter), plugin(Momentum), adamw(), watcher]

    ours, theirs = drawing_convnet(), drawing_convnet()
    trained_by_run(ours, plugins(), grad_accum_steps=accumulate)

    host = trained_by_loop(theirs, plugins(), faults=faults, grad_accum_steps=accumulate)

    assert same_weights(ours, theirs)
    assert [fault.decision for fault in host.report().faults] == ["restarted"] * len(faults)


@pytest.mark.parametrize("step", [0, 6])
def test_one_that_runs_ahead_is_asked_again_for_what_it_had_in_hand(step):
    ours, theirs = mlp(), mlp()
    trained_by_run(ours, [plugin(Noise), sgd()])

    trained_by_loop(theirs, [plugin(Noise), sgd()], faults=[("", "forward", step)])

    assert same_weights(ours, theirs)


def test_without_a_state_that_is_new_enough_the_loop_ends_and_the_model_is_whole():
    model, before, told = mlp(), mlp(), []
    host = host_of(model, [plugin(Momentum), adamw()], save_every=4, told=told)
    loop = Foreign(model, host)
    seed_run(SEED)
    loop.train(until=6)
    before.load_state_dict(model.state_dict())
    FAULTS.append(("optim", "backward", 6))

    with pytest.raises(RunAbortedError, match=r"'optim' had been called since .* write save_every=1"):
        loop.train()

    assert same_weights(model, before)
    assert [fault.decision for fault in host.report().faults] == ["aborted"]
    with pytest.raises(RunAbortedError, match="as it was after 6 steps"):
        host.step()


def test_one_without_a_state_is_started_anew_whatever_is_saved():
    ours, theirs = mlp(), mlp()
    trained_by_run(ours, [plugin(Noise), sgd()])
    FAULTS.append(("", "forward", 6))
    host = host_of(theirs, [plugin(Noise), sgd()], save_every=0)

    Foreign(theirs, host).train()

    assert same_weights(ours, theirs)


@pytest.mark.parametrize(("policy", "decision"), [("disable", "disabled"), ("abort", "aborted")])
def test_policies_hold_in_a_loop(policy, decision):
    model, alone = mlp(), mlp()
    trained_by_run(alone, [sgd()])
    FAULTS.append(("momentum", "backward", 0))
    host = host_of(model, [plugin(Momentum, settings={"on_failure": policy}), sgd()])

    if policy == "abort":
        with pytest.raises(RunAbortedError, match="fault in backward at 0"):
            Foreign(model, host).train()
    else:
        Foreign(model, host).train()
        assert same_weights(model, alone)

    assert [fault.decision for fault in host.report().faults] == [decision]


def test_what_fails_at_every_call_ends_the_loop():
    model = mlp()
    FAULTS.extend([("momentum", "backward", 2)] * 4)
    host = host_of(model, [plugin(Momentum), sgd()])

    with pytest.raises(RunAbortedError, match="restarted 3 times in a row"):
        Foreign(model, host).train()


def test_a_loop_that_stopped_goes_on_from_its_own_checkpoint():
    def plugins():
        return [plugin(Jitter), plugin(Momentum), adamw()]

    ours, theirs = mlp(), mlp()
    trained_by_run(ours, plugins())
    first = host_of(theirs, plugins())
    Foreign(theirs, first).train(until=6)
    saved, weights = first.state_dict(), theirs.state_dict()

    again = mlp()
    again.load_state_dict(weights)
    second = host_of(again, plugins())
    second.load_state_dict(saved)
    Foreign(again, second).train()

    assert second.global_step == 21
    assert same_weights(ours, again)


def test_going_back_within_a_process_starts_plugins_anew_that_had_no_state():
    ours, theirs = mlp(), mlp()
    trained_by_run(ours, [plugin(Momentum), adamw()])
    host = host_of(theirs, [plugin(Momentum), adamw()])
    start, weights = host.state_dict(), {name: p.clone() for name, p in theirs.state_dict().items()}
    loop = Foreign(theirs, host)
    loop.train(until=5)

    host.load_state_dict(start)
    theirs.load_state_dict(weights)
    loop.train()

    assert same_weights(ours, theirs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: [], "is not what"),
        (lambda state: {**state, "schema": 2}, "schema 2"),
        (lambda state: {**state, "seed": 3}, "seed=3"),
        (lambda state: {**state, "plugins": {"other": {}}}, "'other', which this host has not"),
        (lambda state: {**state, "step": "6"}, "is not what"),
    ],
)
def test_another_state_is_refused(change, says):
    host = host_of(mlp(), [sgd()])
    with pytest.raises(CheckpointError, match=says):
        host.load_state_dict(change(host.state_dict()))


def test_an_optimizer_of_torch_takes_the_gradients_of_plugins():
    ours, theirs = convnet(), convnet()
    trained_by_run(ours, [plugin(Momentum), sgd()])
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    host = host_of(theirs, [plugin(Momentum)], optimizer=optimizer)
    seed_run(SEED)

    Foreign(theirs, host).train()

    assert same_weights(ours, theirs)


def test_monitors_see_the_updates_of_an_optimizer_of_torch():
    model, seen = Unused(), []
    model.last = nn.Parameter(torch.randn(4, 8).t())  # not contiguous, so that it keeps its memory
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    host = host_of(model, [plugin(Watcher)], optimizer=optimizer, on_report=lambda *told: seen.append(told))

    Foreign(model, host).train(until=2)
    host.report()

    updates = [report.scalars["update"] for _, _, _, report in seen if "update" in report.scalars]
    assert len(updates) == 2
    assert all(update > 0 for update in updates)
    assert host.report().logged["watcher/update"] == updates[-1]


def test_a_scheduler_of_torch_moves_a_plugins_rate():
    ours, theirs = mlp(), mlp()
    host = host_of(theirs, [sgd()])
    scheduler = torch.optim.lr_scheduler.LambdaLR(host.optimizer, lambda step: 0.5**step)
    loop = Foreign(theirs, host)
    for step in range(1, 5):
        loop.train(until=step)
        scheduler.step()
    scheduled = host_of(ours, [sgd()], schedule=lambda step: 0.5**step)
    Foreign(ours, scheduled).train(until=4)

    assert same_weights(ours, theirs)


def test_the_state_of_the_optimizer_holds_that_of_the_plugins():
    model, other = mlp(), mlp()
    host, another = host_of(model, [adamw()]), host_of(other, [adamw()])
    Foreign(model, host).train(until=3)

    other.load_state_dict(model.state_dict())
    another.optimizer.load_state_dict(host.optimizer.state_dict())
    Foreign(model, host).train(until=5)
    Foreign(other, another).train(until=5)

    assert another.global_step == 5
    assert same_weights(model, other)


# the forms of batches

INPUTS, TARGETS = torch.rand(6, 1, 8, 8), torch.arange(6) % 4


@pytest.mark.parametrize(
    "item",
    [
        (INPUTS, TARGETS),
        [INPUTS, TARGETS],
        {"inputs": INPUTS, "targets": TARGETS, "names": list("abcdef")},
        Batch(INPUTS, TARGETS, torch.arange(6), 4),
    ],
)
def test_a_batch_comes_out_in_the_form_in_which_it_came(item):
    host = host_of(mlp(), [plugin(Noise), sgd()])

    (out,) = host.augment([item])

    assert type(out) is type(item)
    parts = BatchForm()
    old, new = parts.read(item), parts.read(out)
    assert torch.equal(old.targets, new.targets)
    assert not torch.equal(old.inputs, new.inputs)
    if isinstance(item, dict):
        assert out["names"] == item["names"]


def test_without_augment_plugins_batches_are_left_alone():
    item = object()
    assert list(host_of(mlp(), [sgd()]).augment([item])) == [item]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (INPUTS, "a batch is a Tensor"),
        ((INPUTS, TARGETS, TARGETS), "a batch is a tuple"),
        ({"pixels": INPUTS}, r"without 'inputs' and 'targets'; it has 'pixels'.*batch_keys"),
        ((INPUTS, list(TARGETS)), "holds a list where a tensor is needed"),
        ((INPUTS, TARGETS[:5]), "one entry a sample"),
    ],
)
def test_what_plugins_cannot_be_given_is_told(item, says):
    host = host_of(mlp(), [plugin(Noise), sgd()])
    with pytest.raises(DataError, match=says):
        list(host.augment([item]))


@pytest.mark.parametrize(("wrong", "number"), [(7, "7"), (-1, "-1")])
def test_a_target_of_the_loader_that_is_no_class_is_not_blamed_on_a_plugin(wrong, number):
    host = host_of(mlp(), [plugin(Noise), sgd()], form=BatchForm(num_classes=4))
    targets = TARGETS.clone()
    targets[2] = wrong
    with pytest.raises(DataError, match=f"batch 1 of the loader has the target {number}; with num_classes=4"):
        list(host.augment([(INPUTS, TARGETS), (INPUTS, targets)]))
    assert host.report().faults == ()


def test_images_in_bytes_come_out_as_numbers():
    images = torch.full((6, 1, 8, 8), 255, dtype=torch.uint8)
    ((inputs, _),) = host_of(mlp(), [plugin(Noise), sgd()]).augment([(images, TARGETS)])

    assert inputs.dtype == torch.float32
    assert inputs.mean() == pytest.approx(1.0, abs=0.01)


# loops that call it in another order


def some_batches(host):
    return host.augment([(INPUTS, TARGETS)] * 3)


def go_over(host, loader, losses=lambda *_: None):
    """The loop of the documentation."""
    for inputs, targets in loader:
        outputs = host.model(inputs)
        loss = functional.cross_entropy(outputs, targets)
        host.loss((inputs, targets), outputs, loss, losses(outputs, targets)).backward()
        host.step()


def steps_alone(host, call=lambda host: host.step()):
    """A loop that calls nothing but ``step``, or but another."""
    for _ in some_batches(host):
        call(host)


def test_a_step_that_is_not_taken_is_told():
    host = host_of(mlp(), [sgd()])
    with pytest.raises(LoopError, match="call it after every batch, as"):
        list(some_batches(host))


def test_a_step_that_is_taken_too_early_is_told():
    host = host_of(mlp(), [sgd()], grad_accum_steps=2)
    with pytest.raises(LoopError, match="fewer batches than grad_accum_steps says, 2"):
        steps_alone(host)


@pytest.mark.parametrize("cls", [OutputPenalty, LogsLosses])
def test_a_loss_that_a_plugin_needs_is_asked_for(cls):
    plugins = [plugin(cls), *([] if cls.role == "optimizer" else [sgd()])]
    host = host_of(mlp(), plugins)
    with pytest.raises(LoopError, match=r"call host.loss\(batch, outputs, loss\)"):
        steps_alone(host)


def test_the_losses_that_a_plugin_learns_from_are_asked_for():
    model = mlp()
    host = host_of(model, [plugin(Jitter), sgd()])
    with pytest.raises(LoopError, match="'jitter' learns from the loss of each sample"):
        go_over(host, some_batches(host))


def test_a_monitor_that_is_shown_no_loss_is_told_of_once():
    told = []
    host = host_of(mlp(), [plugin(Watcher), sgd()], told=told)
    steps_alone(host)

    assert [sentence for sentence in told if "sees no forward pass" in sentence] == told[:1]


def test_a_loop_without_an_optimizer_is_told():
    with pytest.raises(LoopError, match="give plugin_host the loop's own with optimizer="):
        steps_alone(host_of(mlp(), [plugin(Momentum)]))


def test_another_pass_needs_a_function():
    host = host_of(mlp(), [plugin(Insatiable)])
    with pytest.raises(LoopError, match="'insatiable' asks for another pass"):
        steps_alone(host)


def test_a_loop_of_its_own_batches_needs_no_loader():
    ours, theirs = mlp(), mlp()
    for model, goes_over in ((ours, True), (theirs, False)):
        host = host_of(model, [plugin(OutputPenalty), sgd()])
        go_over(host, some_batches(host) if goes_over else [(INPUTS, TARGETS)] * 3)

    assert same_weights(ours, theirs)


def test_a_look_ahead_needs_the_loader():
    model = mlp()
    host = host_of(model, [plugin(LookAhead)])
    outputs = model(INPUTS)
    with pytest.raises(LoopError, match="'lookahead' changes the parameters before the forward pass"):
        host.loss((INPUTS, TARGETS), outputs, functional.cross_entropy(outputs, TARGETS))


def test_a_pass_that_is_broken_off_can_be_begun_again():
    ours, theirs = mlp(), mlp()
    for model, breaks in ((ours, False), (theirs, True)):
        host = host_of(model, [plugin(Noise), plugin(LookAhead)])
        if breaks:
            next(iter(some_batches(host)))
        go_over(host, some_batches(host))

    assert same_weights(ours, theirs)


@pytest.mark.parametrize("stops_at", [1, 2, 3, 4])
def test_passes_are_counted_once_their_last_batch_is_out(stops_at):
    """As of transformers, which never asks for what comes after it."""
    host, items = host_of(mlp(), [sgd()]), [(INPUTS, TARGETS)] * 3
    for _, _ in zip(range(stops_at), host.augment(items), strict=False):
        host.step()
    assert host.state_dict()["epochs"] == (stops_at >= 3)

    for _ in host.augment(iter(items)):
        host.step()
    assert host.state_dict()["epochs"] == (stops_at >= 3) + 1


@pytest.mark.parametrize("change", [lambda model: model.double(), lambda model: model.half()])
def test_a_model_that_was_converted_meanwhile_is_told(change):
    model = mlp()
    host = host_of(model, [sgd()])
    change(model)
    with pytest.raises(LoopError, match=r"parameter '1\.weight' was moved or converted"):
        steps_alone(host)


def test_a_parameter_that_is_to_learn_after_all_is_told():
    model = mlp()
    model[1].bias.requires_grad = False
    optim = {"optim": {"algorithm": "sgd", "lr": 0.1}, "isolation": "trusted"}
    with plugin_host([optim], model=model, tell=[].append) as host:
        go_over(host, some_batches(host))
        model[1].bias.requires_grad = True
        with pytest.raises(LoopError, match=r"parameter '1\.bias' requires a gradient now"):
            steps_alone(host)


def test_a_state_in_the_middle_of_a_step_is_refused():
    host = host_of(mlp(), [sgd()])
    with pytest.raises(LoopError, match="in the middle of step 0"):
        steps_alone(host, lambda host: host.state_dict())


# the function


def test_what_cannot_be_is_told_before_anything_is_started(monkeypatch):
    monkeypatch.setattr(LocalPlugin, "__init__", lambda *_: pytest.fail("a plugin was started"))
    model, optim = mlp(), {"optim": {"algorithm": "sgd", "lr": 0.1}, "isolation": "trusted"}
    torch_optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for arguments, says in (
        ({"plugins": [optim], "optimizer": torch_optimizer}, "'optim' is an optimizer too"),
        ({"plugins": ["gradclipp", optim]}, "'gradclipp' is not installed; did you mean 'gradclip'"),
        ({"plugins": [{"gradclip": {"norm": 1}}, optim]}, "norm"),
        ({"plugins": [optim], "model": nn.ReLU()}, "has no parameters"),
        ({"plugins": [optim], "grad_accum_steps": 0}, "at least 1"),
        ({"plugins": [optim], "save_every": -1}, "at least 0"),
        ({"plugins": "optim"}, r"^plugin_host\(\): plugins: expected a list, got the text 'optim'.{1,60}$"),
        ({"plugins": {"optim": {}}}, r"^plugin_host\(\): plugins: expected a list, got a mapping.{1,60}$"),
        ({"plugins": 3}, r"plugins: expected a list, got"),
        ({"plugins": [None]}, r"plugins\[0\]: expected a plugin"),
        (
            {"plugins": ["gradclip"], "optimizer": torch.optim.SGD(mlp().parameters(), lr=0.1)},
            "optimizer: the SGD has none of the model's parameters",
        ),
    ):
        with pytest.raises(JobError, match=says), plugin_host(**{"model": model, **arguments}):
            pytest.fail("it began")


def test_an_optimizer_of_a_part_of_the_model_is_told_by_the_parameters_that_it_lacks():
    model, told = mlp(), []
    first, *others = dict(model.named_parameters())
    optimizer = torch.optim.SGD([model.get_parameter(first)], lr=0.1)
    with plugin_host([], model=model, optimizer=optimizer, tell=told.append):
        pass
    assert len(told) == 1
    assert all(repr(name) in told[0] for name in others[:3])
    assert repr(first) not in told[0]


@pytest.mark.parametrize("asked", [False, True])
def test_an_augment_plugin_that_the_loop_never_asks_is_told_of_at_the_end(asked):
    told, model = [], mlp()
    host = host_of(model, [plugin(Noise), sgd()], told=told)
    loader = [(INPUTS, TARGETS)] * 2
    for inputs, targets in host.augment(loader) if asked else loader:
        host.loss((inputs, targets), outputs := model(inputs), outputs.sum()).backward()
        host.step()
    assert told == []
    host.close()
    host.close()
    assert len(told) == (not asked)
    assert asked or "'noise' was never asked" in told[0]


def test_the_public_name_is_the_function():
    assert ringfence.plugin_host is plugin_host


def test_a_host_that_is_closed_says_so():
    with plugin_host(
        [{"optim": {"algorithm": "sgd", "lr": 0.1}, "isolation": "trusted"}],
        model=mlp(),
        tell=Listener().event,
    ) as host:
        pass

    with pytest.raises(RunAbortedError, match="is closed"):
        host.step()
