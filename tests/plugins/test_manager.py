"""Plugins are validated, kept in the job's order and folded; a fault does what the job says."""

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from ringfence import (
    AnotherPass,
    LossScale,
    LossTerm,
    PluginLoadError,
    PluginProtocolError,
    PluginRaisedError,
    Report,
    StepInfo,
    TensorMap,
    passthrough,
)
from ringfence.engine.recovery.recover import act
from ringfence.hooks import specs
from ringfence.hooks.role import Method, Moment, Role, hookspec
from ringfence.hooks.types import Batch
from ringfence.plugins.failure_policy import Abort, RunPosition
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.plugins.manager import Hooks
from ringfence.plugins.moments import Moments

#: Line of ``Failing`` that raises.
BROKEN = Path(__file__).read_text().splitlines().index('        raise RuntimeError("broken")') + 1


class Notes:
    """A listener that remembers."""

    def __init__(self):
        self.reports = []
        self.events = []

    def reported(self, plugin, step, scalars, report):
        self.reports.append((plugin, step.global_step, dict(scalars), report))

    def event(self, message):
        self.events.append(message)


def plugin(instance, name=None, **settings):
    name = name or type(instance).__name__.lower()
    return LocalPlugin(PluginSpec(name, "tests", "1", "tests", "X", instance.role, **settings), instance)


def recover(hooks, error, step=0, steps_lost=0, wait=lambda seconds: None):
    return act(hooks, error, RunPosition(step, steps_lost), wait)


class Scale:
    role = "gradient"

    def __init__(self, factor):
        self.factor = factor

    def forward(self, loss, step):
        step.log("seen", loss)
        return LossScale(self.factor)

    def backward(self, gradients):
        return {name: gradient * self.factor for name, gradient in gradients.items()}


class AddOne(Scale):
    def __init__(self):
        super().__init__(1.0)

    def forward(self, loss, outputs):
        return LossTerm(1.0, torch.zeros_like(outputs))

    def backward(self, gradients):
        return {name: gradient + 1 for name, gradient in gradients.items()}


class Failing:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients):
        raise RuntimeError("broken")


GRADIENTS = TensorMap.like({"w": torch.zeros(2)})
OUTPUTS = torch.zeros(1, 2)
BATCH = Batch(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0]), 2)


def changed(hooks, step):
    """Return the gradients after all plugins."""
    given = {"gradients": GRADIENTS, "parameters": GRADIENTS}
    hooks.fire(hooks.at.gradients, given, step)
    return given["gradients"]


@pytest.mark.parametrize("order", [("scale", "addone"), ("addone", "scale")])
def test_plugins_run_in_the_jobs_order_each_on_the_result_before(order):
    notes = Notes()
    hooks = Hooks(observer=notes)
    made = {"scale": Scale(3.0), "addone": AddOne()}
    for name in order:
        hooks.register(plugin(made[name], name))
    result = changed(hooks, StepInfo(0))
    assert result["w"].tolist() == ([1, 1] if order[0] == "scale" else [3, 3])
    given = {"batch": BATCH, "outputs": OUTPUTS, "loss": 2.0}
    changes = hooks.fire(hooks.at.loss, given, StepInfo(0))
    assert given["loss"] == (7.0 if order[0] == "scale" else 9.0)
    assert [type(change).__name__ for change in changes] == [
        {"scale": "LossScale", "addone": "LossTerm"}[name] for name in order
    ]
    assert notes.reports[0][2]["seen"] == (2.0 if order[0] == "scale" else 3.0)
    assert hooks.order()["gradient_backward"] == list(order)


class Misspelt:
    role = "gradient"
    forward = passthrough

    def backward(self, grads):
        pass


def test_an_argument_that_the_hook_does_not_have_is_refused_by_name():
    hooks = Hooks()
    with pytest.raises(PluginLoadError, match="'grads'"):
        hooks.register(plugin(Misspelt()))
    assert hooks.plugins == []


def test_two_plugins_of_one_name_are_refused():
    hooks = Hooks()
    hooks.register(plugin(Scale(1.0), "same"))
    with pytest.raises(ValueError, match="same"):
        hooks.register(plugin(Scale(2.0), "same"))


def test_disable_goes_on_without_the_plugin_and_says_so():
    notes = Notes()
    hooks = Hooks(observer=notes)
    hooks.register(plugin(Failing(), on_failure="disable"))
    hooks.register(plugin(AddOne()))
    result = changed(hooks, StepInfo(5))
    assert result["w"].tolist() == [1, 1]
    assert notes.events == [
        (
            "plugin 'failing' in 'gradient.backward' at step 5: raised RuntimeError: broken "
            f'({__file__}:{BROKEN}: raise RuntimeError("broken")); '
            "disabled, the run goes on without it"
        )
    ]
    assert "failing" not in hooks.order().get("gradient_backward", [])


def test_restart_is_given_up_after_three_in_a_row():
    hooks = Hooks()
    failing = LocalPlugin(PluginSpec("failing", "tests", "1", __name__, "Failing", "gradient"), Failing())
    failing.restart = lambda: None
    hooks.register(failing)
    for _ in range(3):
        with pytest.raises(PluginRaisedError) as caught:
            changed(hooks, StepInfo(5))
        recover(hooks, caught.value)
    assert recover(hooks, caught.value).why.startswith("; it was restarted 3 times in a row before")
    assert failing.usage.restarts == 3
    assert failing.usage.state == "failed"


def test_progress_starts_the_count_of_restarts_anew():
    hooks = Hooks()
    failing = plugin(Failing())
    failing.restart = lambda: None
    hooks.register(failing)
    error = PluginRaisedError("x", plugin="failing")
    for _ in range(10):
        recover(hooks, error)
        hooks.progressed()
    assert failing.usage.restarts == 10


class Watch:
    role = "monitor"
    forward = passthrough

    def backward(self, parameters, step):
        return Report({"norm": float(parameters["w"].norm())})


def test_monitors_are_called_every_so_many_steps_and_reported():
    notes = Notes()
    hooks = Hooks(observer=notes)
    hooks.register(plugin(Watch(), every=3))
    at = hooks.at.after_update
    due = [step for step in range(7) if at.is_due(StepInfo(step))]
    for step in range(7):
        hooks.fire(at, {"parameters": GRADIENTS, "updates": None, "gradients": GRADIENTS}, StepInfo(step))
        hooks.poll()
    assert due == [0, 3, 6]
    assert [step for _, step, _, _ in notes.reports] == due
    assert not any(at.is_due(step) for step in (StepInfo(0, micro_batch=1), StepInfo(0, pass_index=1)))
    assert not at.is_due(StepInfo(0), "updates")
    assert at.needs == {"parameters"}


@hookspec
def feel_forward(loss: float) -> float | None:
    """Look at the loss."""


@hookspec
def feel_backward(losses: torch.Tensor, step: StepInfo) -> float | None:
    """Look at the loss of each sample."""


class Feel:
    role = "feel"

    def forward(self, loss):
        return loss * 2

    def backward(self, losses, step):
        step.log("seen", 1.0)
        return float(losses.max())


@pytest.mark.parametrize("observes", [True, False])
def test_a_number_is_logged_under_the_name_of_its_method_waited_for_or_not(monkeypatch, observes):
    fires = {"forward": Moment.AFTER_LOSS, "backward": Moment.AFTER_STEP}
    methods = {name: Method(globals()[f"feel_{name}"], moment) for name, moment in fires.items()}
    monkeypatch.setitem(specs.ROLES, "feel", Role("feel", **methods, observes=observes))
    monkeypatch.setattr(specs, "HOOKS", (*specs.HOOKS, feel_forward, feel_backward))
    hooks = Hooks(observer=(notes := Notes()))
    hooks.register(plugin(Feel()))

    assert (
        hooks.fire(hooks.at.after_loss, {"batch": BATCH, "outputs": OUTPUTS, "loss": 2.0}, StepInfo(4)) == []
    )
    hooks.fire(hooks.at.after_step, {"losses": torch.tensor([1.0, 3.0])}, StepInfo(4))
    assert len(notes.reports) == (0 if observes else 2)
    hooks.poll()

    assert notes.reports == [
        ("feel", 4, {"forward": 4.0}, None),
        ("feel", 4, {"seen": 1.0, "backward": 3.0}, None),
    ]


@hookspec
def eye_forward(batch: Batch, step: StepInfo) -> None:
    """Look at the batch."""


@hookspec
def eye_backward(parameters: TensorMap, loss: float, step: StepInfo) -> None:
    """Look at what the optimizer is given."""


@hookspec
def pull_forward() -> None:
    """Do nothing."""


@hookspec
def pull_backward(parameters: TensorMap, step: StepInfo) -> TensorMap | AnotherPass | None:
    """Change what the optimizer has changed."""


class Eye:
    role = "eye"

    def forward(self, batch, step):
        step.log("seen", float(batch.inputs.sum()))

    def backward(self, parameters, loss, step):
        step.log("loss", loss)


class Pull:
    role = "pull"
    forward = passthrough

    def backward(self, parameters):
        return {"w": parameters["w"] * 10}


@pytest.fixture
def _two_more_roles(monkeypatch):
    """Have one that watches at the moments of the batch and the optimizer, and one that changes after it."""
    eye = Role("eye", Method(eye_forward, Moment.BATCH), Method(eye_backward, Moment.UPDATE), observes=True)
    pull = Role(
        "pull", Method(pull_forward, Moment.BATCH), Method(pull_backward, Moment.UPDATE, changes="parameters")
    )
    monkeypatch.setitem(specs.ROLES, "pull", pull)
    monkeypatch.setitem(specs.ROLES, "eye", eye)
    monkeypatch.setattr(
        specs, "HOOKS", (*specs.HOOKS, eye_forward, eye_backward, pull_forward, pull_backward)
    )


@pytest.mark.usefixtures("_two_more_roles")
def test_who_observes_batches_is_posted_those_that_are_due_and_not_waited_for():
    hooks = Hooks(observer=(notes := Notes()))
    eye = plugin(Eye(), every=5)
    posted, post = [], eye.post
    eye.post = lambda method, given, step: posted.append(step.global_step) or post(method, given, step)
    hooks.register(plugin(Learner()))
    hooks.register(eye)

    batches = [(BATCH, StepInfo(step)) for step in range(10)]
    for (given, _), (batch, _) in zip(batches, hooks.stream(iter(batches)), strict=True):
        assert torch.equal(batch.inputs, given.inputs)
    assert (posted, eye.usage.calls, notes.reports) == ([0, 5], 2, [])
    hooks.poll()
    assert [(name, step) for name, step, _, _ in notes.reports] == [("eye", 0), ("eye", 5)]


class AsksOnce:
    role = "optimizer"
    forward = passthrough

    def backward(self, parameters, step):
        point = parameters.clone()
        point["w"].add_(1.0)
        return AnotherPass(point) if step.pass_index == 0 else point


@pytest.mark.usefixtures("_two_more_roles")
def test_while_another_pass_is_asked_for_nobody_else_changes_anything():
    hooks = Hooks(observer=(notes := Notes()))
    for one in (AsksOnce(), Pull(), Eye()):
        hooks.register(plugin(one))
    found = []
    for index in range(2):
        given = {"parameters": TensorMap.like({"w": torch.zeros(1)}), "gradients": GRADIENTS, "loss": 3.0}
        found.append(hooks.fire(hooks.at.update, given, StepInfo(0, pass_index=index)))
    hooks.poll()

    assert [type(change) for change in found[0]] == [AnotherPass]
    assert [change["w"].tolist() for change in found[1]] == [[1.0], [10.0]]
    assert given["parameters"]["w"].tolist() == [10.0]
    assert hooks.asked_last.plugin.spec.name == "asksonce"
    assert [report[:3] for report in notes.reports] == [("eye", 0, {"loss": 3.0})]


class Learner:
    role = "augment"

    def __init__(self):
        self.seen = 0.0

    def forward(self, batch):
        return batch.with_(inputs=batch.inputs + self.seen)

    def backward(self, losses):
        self.seen += float(losses.sum())


def test_an_augment_plugin_that_learns_runs_in_step():
    hooks = Hooks()
    hooks.register(plugin(Learner()))
    pulled = []

    def source():
        for number in range(3):
            pulled.append(number)
            yield BATCH, StepInfo(number)

    for (batch, step), expected in zip(hooks.stream(source()), (0.0, 1.0, 2.0), strict=True):
        assert batch.inputs[0, 0] == expected
        assert len(pulled) == step.global_step + 1
        hooks.fire(hooks.at.after_step, {"losses": torch.tensor([1.0])}, step)


def test_without_plugins_nothing_fires_and_nothing_is_computed():
    hooks = Hooks()
    for moment in Moment:
        firing = getattr(hooks.at, moment.name.lower())
        assert (firing.methods, firing.needs) == ((), frozenset())
    assert hooks.order() == {}


def test_a_plugin_that_was_disabled_fires_no_more():
    hooks = Hooks()
    hooks.register(failing := plugin(Failing()))
    hooks.register(watch := plugin(Watch()))
    assert [method.plugin for method in hooks.at.gradients.methods] == [failing]
    assert hooks.observers == (watch,)
    for one in (failing, watch):
        hooks.disable(one, PluginRaisedError("x", plugin=one.spec.name), RunPosition(0))
    assert hooks.at.gradients.methods == hooks.at.after_update.methods == hooks.observers == ()


@pytest.mark.parametrize("hook", specs.HOOKS, ids=lambda hook: hook.__name__)
def test_every_argument_of_a_hook_is_to_be_had_when_it_fires(hook):
    (method,) = [m for role in specs.ROLES.values() for m in role.methods.values() if m.hook is hook]
    firing = get_type_hints(Moments)[method.fires.name.lower()]
    values = get_type_hints(get_args(firing)[0])

    taken = {name for name in get_type_hints(hook) if name not in {"step", "return"}}

    assert taken <= values.keys()
    assert method.changes in {None, *taken}


def test_a_fault_of_the_first_kind_is_not_told_as_one_after_restarts():
    hooks = Hooks()
    hooks.register(plugin(Failing(), on_failure="abort"))
    assert recover(hooks, PluginRaisedError("x", plugin="failing")) == Abort()


def test_all_plugins_are_ended_even_if_some_cannot_be():
    hooks, closed = Hooks(), []

    def closing(name, error=None):
        def close():
            closed.append(name)
            if error:
                raise error

        return close

    for name, error in (("a", None), ("b", OSError("first")), ("c", OSError("second")), ("d", None)):
        one = plugin(Scale(1.0), name)
        one.close = closing(name, error)
        hooks.register(one)
    with pytest.raises(OSError, match="first"):
        hooks.close()
    assert sorted(closed) == ["a", "b", "c", "d"]
    assert {one.usage.state for one in hooks.plugins} == {"closed"}


def test_a_pause_comes_between_the_decision_and_the_restart():
    hooks, happened = Hooks(observer=(notes := Notes())), []
    failing = plugin(Failing())
    failing.restart = lambda: happened.append("restarted")
    hooks.register(failing)
    error = PluginRaisedError("x", plugin="failing")
    for _ in range(2):
        recover(hooks, error, wait=lambda seconds: happened.append((len(notes.events), seconds)))
    assert happened == [(1, 0.0), "restarted", (2, 0.5), "restarted"]


def without_state(name="stateful", **settings):
    """Return a plugin that can neither give its state nor take it."""
    one = plugin(Scale(1.0), name, **settings)

    def failing(method):
        def fail(*_):
            raise PluginRaisedError("broken", plugin=name, hook=f"gradient.{method}")

        return fail

    one.state_dict, one.load_state_dict = failing("state_dict"), failing("load_state_dict")
    return one


STATES = {
    "state_dict": lambda hooks: hooks.state_dict(),
    "load_state_dict": lambda hooks: hooks.load_state_dict({"stateful": object()}),
}


@pytest.mark.parametrize("method", STATES)
def test_a_plugin_that_may_be_disabled_is_where_its_state_fails(method):
    """No step is lost for it."""
    hooks = Hooks(observer=(notes := Notes()))
    hooks.register(without_state(on_failure="disable"))
    STATES[method](hooks)
    assert hooks.plugins[0].usage.state == "disabled"
    (fault,) = hooks.failures.log.records
    assert (fault.hook, fault.decision, fault.steps_lost) == (f"gradient.{method}", "disabled", 0)
    assert notes.events == [fault.message]


@pytest.mark.parametrize("method", STATES)
def test_the_state_of_a_plugin_that_is_restarted_is_the_callers_to_have_again(method):
    hooks = Hooks()
    hooks.register(without_state())
    with pytest.raises(PluginRaisedError):
        STATES[method](hooks)
    assert hooks.failures.log.count == 0


class Early:
    role = "optimizer"
    backward = passthrough

    def forward(self, parameters):
        return AnotherPass(parameters.clone())


def test_another_pass_before_the_first_is_the_optimizers_fault():
    hooks = Hooks()
    hooks.register(plugin(Early()))
    parameters = TensorMap.like({"w": torch.ones(2)})
    with pytest.raises(
        PluginProtocolError, match=r"'early' in 'optimizer\.forward' at step 3: asked for another"
    ):
        hooks.fire(hooks.at.parameters, {"parameters": parameters}, StepInfo(3))
