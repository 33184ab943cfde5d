"""Averages are what their formulas say, however often the run is rolled back, killed or resumed."""

import copy
import functools
import itertools
from types import SimpleNamespace

import pytest
import torch
from engine_helpers import (
    FAULTS,
    Momentum,
    StopAt,
    TapeRecorder,
    adamw,
    asking,
    config,
    convnet,
    hooks_of,
    image_data,
    plugin,
)
from torch import nn
from torch.optim.swa_utils import update_bn

from ringfence.engine.averaging import (
    ExponentialMovingAverage,
    StochasticWeightAverage,
    WeightAverage,
    first_update,
)
from ringfence.engine.checkpoints import checkpoint
from ringfence.engine.data import Data, Normalise, Plan
from ringfence.engine.evaluate import evaluate
from ringfence.engine.train import train
from ringfence.engine.trial import try_together
from ringfence.hooks.errors import CheckpointError
from ringfence.plugins import failure_policy

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 14
SETTINGS = {"steps": STEPS, "snapshot_every": 3, "checkpoint_every": 4, "eval_every": 5}
EMA = ExponentialMovingAverage(decay=0.6, every=2)
SWA = StochasticWeightAverage(start=0.4, every=3)
FROZEN = frozenset({"0.weight"})
STATISTICS = ("1.running_mean", "1.running_var")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(failure_policy, "BACK_OFF_S", (0.0, 0.0, 0.0))
    yield
    assert FAULTS == []


class Figures(TapeRecorder):
    """Keeps what averages are worth, on the tape that is cut back with the run."""

    def evaluated_beside(self, step, epoch, metrics, *, part, name):
        self.tape.append((f"{part}_{name}", step, dict(metrics)))

    def of(self, kind):
        return [(step, metrics) for entry, step, metrics in self.tape if entry == kind]


class Keeps:
    """A driver that keeps the weights after each step."""

    name = "keeps"

    def __init__(self):
        self.weights = {}

    def between_steps(self, run):
        model = run.state.model
        self.weights[run.progress.step] = {n: t.detach().clone() for n, t in model.state_dict().items()}

    def beside(self):
        return None

    def trained(self, run):
        pass

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def parts():
    data = image_data()
    return Data(data.train, image_data(8, seed=3).train, data.mean, data.std, validation=data.test)


def trained(*rules, faults=(), observer=None, changes=None, keeps=None, model=None, **more):
    """Return the result of a run, its averages, its figures and its model."""
    FAULTS.extend(faults)
    model = model or convnet()
    observer = observer or Figures()
    hooks = hooks_of(plugin(Momentum), adamw())
    try:
        setup = try_together(model, parts(), config(**SETTINGS | (changes or {})), FROZEN)
        averages = [WeightAverage(rule, setup) for rule in rules]
        drivers = [*averages, *([keeps] if keeps else [])]
        result = train(setup, hooks, observer=observer, drivers=drivers, **more)
    finally:
        hooks.close()
    return result, {average.name: average.result for average in averages}, observer, setup


@functools.cache
def straight():
    keeps = Keeps()
    return *trained(EMA, SWA, keeps=keeps), keeps.weights


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def averaged_names():
    names = [name for name, _ in convnet().named_parameters() if name not in FROZEN]
    return [*names, *STATISTICS]


def near(found, expected, names):
    return all(torch.allclose(found[n], expected[n].float(), rtol=1e-6, atol=1e-7) for n in names)


def ema_by_hand(weights, names, decay, every, *, late=0, shift=0):
    """The formula in float64; with ``late`` or ``shift`` a wrong one: a step, or an update, off by one."""
    average = None
    for n, step in enumerate(range(every, STEPS + 1 - late, every)):
        now = {name: weights[step + late][name].double() for name in names}
        if average is None:
            average = now
            continue
        share = min(decay, (1 + n + shift) / (10 + n + shift))
        average = {name: share * average[name] + (1 - share) * now[name] for name in names}
    return average


def test_the_moving_average_is_that_of_the_formula():
    _, averages, _, _, weights = straight()
    names = averaged_names()
    assert near(averages["ema"], ema_by_hand(weights, names, 0.6, 2), names)
    # Wrong variants: a step later, and the decay of the update before or after.
    assert not near(averages["ema"], ema_by_hand(weights, names, 0.6, 2, late=1), names)
    assert not near(averages["ema"], ema_by_hand(weights, names, 0.6, 2, shift=1), names)
    assert not near(averages["ema"], ema_by_hand(weights, names, 0.6, 2, shift=-1), names)


def test_it_is_that_of_torch_to_the_bit():
    _, averages, _, _, weights = straight()
    for name in averaged_names():
        average = weights[2][name].clone()
        for n, step in enumerate(range(4, STEPS + 1, 2), 1):
            average = torch.lerp(average, weights[step][name], 1 - min(0.6, (1 + n) / (10 + n)))
        assert torch.equal(averages["ema"][name], average)


def test_the_other_is_the_mean_of_the_last_part():
    _, averages, _, _, weights = straight()
    names = [name for name in averaged_names() if name not in STATISTICS]

    def mean(*steps):
        return {n: torch.stack([weights[step][n].double() for step in steps]).mean(0) for n in names}

    # The first after 0.4 of 14 steps, each third of the run.
    assert near(averages["swa"], mean(6, 9, 12), names)
    assert not near(averages["swa"], mean(3, 6, 9, 12), names)
    assert not near(averages["swa"], mean(9, 12), names)
    assert not near(averages["swa"], mean(7, 10, 13), names)


def test_statistics_of_the_mean_are_measured_on_the_training_data():
    _, averages, _, setup, weights = straight()
    model = convnet()
    model.load_state_dict(averages["swa"])
    # Torch's own leaves dropout on, which comes after the batch norm here.
    normalise = Normalise(setup.data, torch.device("cpu"))
    data = setup.data.train
    update_bn([normalise(data.batch(at).inputs) for at in torch.arange(len(data)).split(8)], model)
    assert same(model.state_dict(), averages["swa"])
    assert not torch.equal(averages["swa"]["1.running_mean"], weights[STEPS]["1.running_mean"])


def test_what_is_frozen_and_all_else_is_the_models():
    _, averages, _, setup, _ = straight()
    for tensors in averages.values():
        assert tensors.keys() == setup.model.state_dict().keys()
        assert torch.equal(tensors["0.weight"], setup.model[0].weight)
    assert averages["ema"]["1.num_batches_tracked"] == STEPS


def test_the_run_itself_takes_no_notice():
    result, _, figures, _, _ = straight()
    plain, _, without, _ = trained()
    assert result.weights_sha256 == plain.weights_sha256
    assert [e for e in figures.tape if "_" not in e[0]] == without.tape


def test_figures_are_those_of_a_model_with_the_average():
    _, averages, figures, setup, _ = straight()
    assert [step for step, _ in figures.of("validation_ema")] == [5, 10, STEPS]
    # Of the mean there is none before step 6; at the end it is measured again, with its own statistics.
    assert [step for step, _ in figures.of("validation_swa")] == [10, STEPS, STEPS]
    for name, part in itertools.product(averages, ("validation", "test")):
        model = convnet()
        model.load_state_dict(averages[name])
        expected = evaluate(
            model,
            setup.data.parts()[part],
            setup.objective,
            Normalise(setup.data, torch.device("cpu")),
            batch_size=512,
            device=torch.device("cpu"),
        )
        step, metrics = figures.of(f"{part}_{name}")[-1]
        assert (step, metrics) == (STEPS, expected)
    assert figures.of("test_ema") != figures.of("test_swa")


@pytest.mark.parametrize("step", [2, 10, 11])
def test_a_roll_back_takes_them_back(step):
    _, averages, figures, _, _ = straight()
    _, again, told, _ = trained(EMA, SWA, faults=[("momentum", "backward", step)])
    assert all(same(averages[name], again[name]) for name in averages)
    assert told.tape == figures.tape


class Forgetful(WeightAverage):
    def load_state_dict(self, state):
        pass


def test_one_that_forgets_to_go_back_is_caught():
    FAULTS.append(("momentum", "backward", 10))
    setup = try_together(convnet(), parts(), config(**SETTINGS), FROZEN)
    average, hooks = Forgetful(EMA, setup), hooks_of(plugin(Momentum), adamw())
    train(setup, hooks, drivers=[average])
    hooks.close()
    assert not same(average.result, straight()[1]["ema"])


@pytest.mark.parametrize("at", [3, 4, 8, 11])
def test_a_resumed_run_comes_to_the_same(tmp_path, at):
    _, averages, figures, _, _ = straight()
    stopping = type("Stops", (Figures, StopAt), {})(at)
    stopped = trained(EMA, SWA, observer=stopping, stop=asking(stopping.stop), checkpoints=tmp_path)
    assert stopped[0].status == "interrupted"
    assert stopped[1] == {"ema": None, "swa": None}
    more = Figures(stopping.tape)
    _, again, told, _ = trained(EMA, SWA, observer=more, checkpoints=tmp_path, resume=True)
    assert all(same(averages[name], again[name]) for name in averages)
    assert told.tape == figures.tape


def test_a_stop_during_the_last_evaluation_is_made_up_for(tmp_path):
    _, averages, figures, _, _ = straight()

    class StopsAtTheEnd(Figures):
        def evaluated_beside(self, step, epoch, metrics, *, part, name):
            super().evaluated_beside(step, epoch, metrics, part=part, name=name)
            self.is_over = (part, name) == ("test", "ema")

    observer = StopsAtTheEnd()
    stop = asking(lambda: getattr(observer, "is_over", False))
    result, left, _, _ = trained(EMA, SWA, observer=observer, stop=stop, checkpoints=tmp_path)
    assert result.status == "interrupted"
    assert left["swa"] is None
    result, again, told, _ = trained(EMA, SWA, checkpoints=tmp_path, resume=True)
    assert result.status == "completed"
    assert all(same(averages[name], again[name]) for name in averages)
    assert told.of("test_swa") == figures.of("test_swa")


def test_the_best_weights_come_back_and_the_averages_are_those_of_the_end(tmp_path):
    _, averages, _, _, weights = straight()
    best = {"restore_best": True, "checkpoint_every": 5}
    result, again, _, setup = trained(EMA, SWA, changes=best, checkpoints=tmp_path)
    assert result.best_step != STEPS, "it restores nothing, so that this shows nothing"
    assert torch.equal(setup.model[5].weight, weights[result.best_step]["5.weight"])
    names = averaged_names()
    assert all(torch.equal(averages["ema"][name], again["ema"][name]) for name in names)


def test_a_run_that_is_cut_off_after_them_is_left_with_its_last_weights(tmp_path):
    best = {"restore_best": True, "checkpoint_every": 5}
    observer = Figures()
    observer.evaluated_beside = lambda *_, part, **__: setattr(observer, "is_over", part == "test")
    stop = asking(lambda: getattr(observer, "is_over", False))
    result, _, _, _ = trained(EMA, SWA, observer=observer, stop=stop, changes=best, checkpoints=tmp_path)
    assert result.status == "interrupted"
    assert result.weights_from == result.checkpoint
    assert result.weights_sha256 == straight()[0].weights_sha256


def test_a_run_that_is_made_longer_averages_as_if_it_had_been_so_long(tmp_path):
    longer = {"steps": 40}
    _, expected, _, _ = trained(EMA, SWA, changes=longer)
    trained(EMA, SWA, checkpoints=tmp_path)
    _, found, _, _ = trained(EMA, SWA, changes=longer, checkpoints=tmp_path, resume=True)
    assert all(same(expected[name], found[name]) for name in expected)


def test_what_is_not_of_the_last_part_of_a_longer_run_is_left_out(tmp_path):
    trained(SWA, checkpoints=tmp_path)
    keeps = Keeps()
    # Its last part begins after 8 steps, of which those up to the resume are gone.
    trained(SWA, keeps=keeps, changes={"steps": 20})
    _, found, _, _ = trained(SWA, changes={"steps": 20}, checkpoints=tmp_path, resume=True)
    mean = (keeps.weights[15]["5.bias"] + keeps.weights[18]["5.bias"]) / 2
    assert torch.allclose(found["swa"]["5.bias"], mean)


def test_a_run_that_ends_before_the_first_update_says_so():
    rule = StochasticWeightAverage(start=0.9, every=1)
    stopping = {"early_stopping": None, "steps": STEPS}
    setup = try_together(convnet(), parts(), config(**SETTINGS | stopping))
    average, observer = WeightAverage(rule, setup), TapeRecorder()
    average.trained(SimpleNamespace(observer=observer))
    assert average.result is None
    assert observer.events == ["swa: the run ended before the first weights were averaged: there are none"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (EMA, 2),
        (SWA, 6),
        (StochasticWeightAverage(), 14),
        (StochasticWeightAverage(every=20), None),
        (ExponentialMovingAverage(every=15), None),
    ],
)
def test_it_is_known_beforehand_whether_anything_is_averaged(rule, expected):
    setup = SimpleNamespace(steps_total=STEPS, plan=Plan(56, 8))
    assert first_update(rule, setup) == expected


def test_weights_of_16_bits_are_averaged_in_32():
    model = nn.Linear(4, 2).bfloat16().train()
    average = WeightAverage(ExponentialMovingAverage(warmup=False), SimpleNamespace(model=model, frozen=()))
    before = model.weight.detach().clone()
    for step in (1, 2, 3):
        average.between_steps(
            SimpleNamespace(
                progress=SimpleNamespace(step=step), setup=SimpleNamespace(steps_total=9, plan=Plan(8, 8))
            )
        )
        with torch.no_grad():
            model.weight.add_(0.01)
    held = average.state_dict()["averages"]["weight"]
    assert held.dtype == torch.float32
    assert not torch.equal(held, before.float())
    assert average.beside()["weight"].dtype == torch.bfloat16


def test_a_checkpoint_has_room_for_them(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "MAX_ENGINE_BYTES", 40_000)
    stopping = StopAt(4)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.BatchNorm1d(400), nn.Linear(400, 4))
    trained(
        EMA, model=copy.deepcopy(wide), observer=stopping, stop=asking(stopping.stop), checkpoints=tmp_path
    )
    trained(EMA, model=copy.deepcopy(wide), checkpoints=tmp_path, resume=True)
    monkeypatch.setattr(checkpoint, "_AVERAGES", 0)
    with pytest.raises(CheckpointError, match="at most 40000 can belong there"):
        trained(EMA, model=copy.deepcopy(wide), checkpoints=tmp_path, resume=True)


def test_a_state_of_another_model_is_refused():
    setup = try_together(convnet(), parts(), config(**SETTINGS))
    average = WeightAverage(EMA, setup)
    averages = {name: torch.zeros_like(convnet().state_dict()[name]) for name in average._own()}
    whole = {"begin": 0, "updates": 3, "averages": averages}
    average.load_state_dict(whole)
    for broken in (
        {"averages": None},
        {"begin": "0"},
        {"averages": {}},
        {"updates": 0},
        {"averages": averages | {"0.bias": torch.zeros(5)}},
        {"averages": averages | {"0.bias": 1.0}},
    ):
        with pytest.raises(CheckpointError, match="the average 'ema' in the checkpoint is of another model"):
            average.load_state_dict(whole | broken)


def test_averages_are_those_of_the_end_where_the_model_is_left_with_its_best_weights(tmp_path):
    _, expected, _, _, _ = straight()
    changes = {"restore_best": True, "eval_every": 1}
    observer = Figures()
    result, found, _, _ = trained(EMA, SWA, observer=observer, changes=changes, checkpoints=tmp_path / "c")
    assert result.weights_from != result.checkpoint, "the last step is the best: the test shows nothing"
    for name, average in expected.items():
        differing = {key for key, tensor in average.items() if not torch.equal(found[name][key], tensor)}
        # How many batches were seen is counted and not averaged.
        assert differing <= {"1.num_batches_tracked"}
