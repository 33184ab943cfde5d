"""Groups, rates, state and messages of the optimizer plugin."""

import threading

import pytest
import torch

from ringfence import AnotherPass, JobError, StepInfo, TensorMap
from ringfence.builtin.optim import Optim
from ringfence.builtin.optim.closure import MAX_PASSES
from ringfence.tensors import pytree

NAMES = {"body.weight": (3, 2), "body.bias": (3,), "head.weight": (2, 3), "head.bias": (2,)}


@pytest.fixture(autouse=True)
def _as_in_sandbox():
    with torch.no_grad():
        yield


def tensors(seed, dtype=torch.float32, names=NAMES):
    generator = torch.Generator().manual_seed(seed)
    laid = TensorMap.like({name: torch.empty(shape, dtype=dtype) for name, shape in names.items()})
    for tensor in laid.values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return laid


def step(optim, parameters, number=0, *, gradients=None, lr_factor=1.0, pass_index=0, loss=1.0):
    gradients = (
        tensors(100 + number, next(iter(parameters.values())).dtype) if gradients is None else gradients
    )
    info = StepInfo(number, lr_factor=lr_factor, pass_index=pass_index)
    return optim.backward(parameters, gradients, loss, info), info


def steps(optim, parameters, numbers):
    for number in numbers:
        parameters, _ = step(optim, parameters, number)
    return parameters


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# one step


def test_parameters_and_gradients_stay_as_they_were_given():
    parameters, gradients = tensors(1), tensors(2)
    optim = Optim(algorithm="adabelief", weight_decay=0.1)
    step(optim, parameters, gradients=gradients)
    step(optim, parameters, gradients=gradients)
    assert equal(parameters, tensors(1))
    assert equal(gradients, tensors(2))


def test_a_result_is_never_written_again():
    optim = Optim(algorithm="sgd", lr=0.1)
    first, _ = step(optim, tensors(1))
    kept = first.clone()
    step(optim, first, 1)
    assert equal(first, kept)


def test_the_learning_rate_follows_the_schedule_and_is_logged():
    parameters, gradients = tensors(1), tensors(2)
    optim = Optim(algorithm="sgd", lr=0.5)
    result, info = step(optim, parameters, gradients=gradients, lr_factor=0.2)
    expected = parameters["body.weight"] - 0.1 * gradients["body.weight"]
    torch.testing.assert_close(result["body.weight"], expected, rtol=0, atol=1e-7)
    assert info.scalars == {"lr": 0.1}


def test_a_factor_of_one_step_does_not_last():
    one, other = Optim(algorithm="sgd", lr=0.3), Optim(algorithm="sgd", lr=0.3)
    step(one, tensors(1), lr_factor=0.0)
    assert equal(step(one, tensors(1), 1)[0], step(other, tensors(1), 1)[0])


def test_a_parameter_without_gradient_stays():
    gradients = tensors(2).select(["head.weight", "head.bias"])
    optim = Optim(algorithm="adamw", weight_decay=0.1)
    result, _ = step(optim, tensors(1), gradients=gradients)
    assert torch.equal(result["body.weight"], tensors(1)["body.weight"])
    assert not torch.equal(result["head.weight"], tensors(1)["head.weight"])


def test_gradients_may_come_and_go():
    optim = Optim(algorithm="adabelief")
    parameters, _ = step(optim, tensors(1), gradients=tensors(2))
    result, _ = step(optim, parameters, gradients=tensors(2).select(["head.bias"]))
    assert torch.equal(result["body.weight"], parameters["body.weight"])
    assert not torch.equal(result["head.bias"], parameters["head.bias"])


def test_frozen_whole_numbers_are_left_alone():
    table = torch.arange(-3, 3, dtype=torch.int8)
    parameters = TensorMap.like({"table": table, "weight": torch.ones(2)})
    for name, value in (("table", table), ("weight", torch.ones(2))):
        parameters[name].copy_(value)
    gradients = parameters.select(["weight"])
    optim = Optim(algorithm="adamw", weight_decay=0.1, lr=0.5)
    result = optim.backward(parameters, gradients, 0.0, StepInfo(0))
    assert torch.equal(result["table"], table)
    assert not torch.equal(result["weight"], torch.ones(2))
    again = Optim(algorithm="adamw", weight_decay=0.1, lr=0.5)
    again.load_state_dict(optim.state_dict())
    assert torch.equal(
        again.backward(result, gradients, 0.0, StepInfo(1))["weight"],
        optim.backward(result, gradients, 0.0, StepInfo(1))["weight"],
    )


def test_complex_parameters_are_refused_by_name():
    parameters = TensorMap.like({"phase": torch.zeros(3, dtype=torch.complex64)})
    with pytest.raises(ValueError, match=r"'phase' is of torch\.complex64"):
        Optim(algorithm="sgd").backward(parameters, parameters, 0.0, StepInfo(0))


@pytest.mark.parametrize("value", ["fast", True, None, float("inf")])
def test_what_is_no_number_is_no_learning_rate_of_a_group(value):
    with pytest.raises(ValueError, match=r"group 'head\.\*' sets lr to .*; expected a number"):
        Optim(algorithm="adamw", groups=[{"head.*": {"lr": value}}])


class SecondOrder(torch.optim.SGD):
    """Differentiates its gradients once more."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            torch.autograd.grad(parameter.grad.sum(), parameter)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"algorithm": "lbfgs", "groups": [{"head.*": {"lr": 0.1}}]}, "LBFGS doesn't support"),
        ({"algorithm": "adamw", "groups": [{"heads.*": {"lr": 0.1}}]}, "'heads.*' matches no parameter"),
        ({"algorithm": f"{__name__}:SecondOrder"}, "needs the autograd graph of the gradients"),
        ({"algorithm": "torch.optim.Muon"}, "hands it every weight as a matrix"),
    ],
)
def test_what_does_not_fit_the_model_is_the_jobs_fault(options, words):
    """So that it is told of the job, and nobody starts the plugin again for it."""
    with pytest.raises(JobError) as caught:
        step(Optim(**options), tensors(1), gradients=tensors(2))
    assert words in str(caught.value)


def test_short_names_use_the_fused_step():
    optim = Optim(algorithm="adamw")
    step(optim, tensors(1))
    assert optim._bound.optimizer.param_groups[0]["fused"]


def test_a_path_is_used_as_it_is():
    optim = Optim(algorithm="torch.optim:AdamW")
    step(optim, tensors(1))
    assert not optim._bound.optimizer.param_groups[0]["fused"]


# groups


def settings_by_name(optim, key):
    step(optim, tensors(1))
    bound = optim._bound
    groups = zip(bound._names, bound.optimizer.param_groups, strict=True)
    return {name: group[key] for names, group in groups for name in names}


def test_vectors_do_not_decay_by_default():
    assert settings_by_name(Optim(algorithm="adamw", weight_decay=0.1), "weight_decay") == {
        "body.weight": 0.1,
        "body.bias": 0.0,
        "head.weight": 0.1,
        "head.bias": 0.0,
    }


def test_patterns_choose_what_does_not_decay():
    optim = Optim(algorithm="adamw", weight_decay=0.1, no_decay=["head.*"])
    assert settings_by_name(optim, "weight_decay") == {
        "body.weight": 0.1,
        "body.bias": 0.1,
        "head.weight": 0.0,
        "head.bias": 0.0,
    }


def test_an_empty_list_lets_everything_decay_in_one_group():
    optim = Optim(algorithm="adamw", weight_decay=0.1, no_decay=[])
    assert set(settings_by_name(optim, "weight_decay").values()) == {0.1}
    assert len(optim._bound._names) == 1


def test_the_first_pattern_that_matches_sets_a_group():
    groups = [{"*.bias": {"lr": 0.5}}, {"head.*": {"lr": 0.25, "momentum": 0.5}}]
    optim = Optim(algorithm="sgd", lr=1.0, groups=groups)
    assert settings_by_name(optim, "lr") == {
        "body.weight": 1.0,
        "body.bias": 0.5,
        "head.weight": 0.25,
        "head.bias": 0.5,
    }


def test_patterns_of_one_group_stand_side_by_side():
    groups = [{"match": "*.bias|body.*", "lr": 0.5}, {"match": "head.*", "lr": 0.25}]
    assert settings_by_name(Optim(algorithm="sgd", lr=1.0, groups=groups), "lr") == {
        "body.weight": 0.5,
        "body.bias": 0.5,
        "head.weight": 0.25,
        "head.bias": 0.5,
    }


def test_a_group_may_bring_decay_back_to_its_biases():
    optim = Optim(algorithm="adamw", weight_decay=0.1, groups=[{"head.bias": {"weight_decay": 0.3}}])
    assert settings_by_name(optim, "weight_decay")["head.bias"] == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [{"haed.*": {"lr": 1.0}}]}, "'haed.\\*' matches no parameter"),
        ({"weight_decay": 0.1, "no_decay": ["bodi.weight"]}, "did you mean 'body.weight'"),
        ({"groups": [{"match": "head.*|haed.*", "lr": 1.0}]}, "'haed.\\*' matches no parameter"),
        (
            {"groups": [{"match": "*.bias"}, {"match": "head.bias", "lr": 1.0}]},
            "group 'head.bias' would be empty: all that it matches belongs to the groups before it",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_is_told(options, message):
    with pytest.raises(ValueError, match=message):
        step(Optim(algorithm="sgd", **options), tensors(1))


# messages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "lamp"}, "there is no algorithm 'lamp'; did you mean 'lamb'"),
        ({"algorithm": "torch.optim.Adamm"}, "no optimizer class 'Adamm'; did you mean 'Adam"),
        ({"algorithm": "torch.optim.lr_scheduler"}, "no optimizer class 'lr_scheduler'"),
        ({"algorithm": "no_such_package.Lamb"}, "no_such_package cannot be imported"),
        ({"algorithm": "sgd", "options": {"momentun": 0.9}}, "no option 'momentun'; did you mean 'momentum'"),
        ({"algorithm": "sgd", "options": {"lr": 0.9}}, "lr belongs beside algorithm"),
        ({"algorithm": "sgd", "options": {"momentum": -1.0}}, "Invalid momentum value: -1.0"),
        ({"algorithm": "sgd", "options": {"momentum": "high"}}, r"torch\.optim\.SGD: "),
        (
            {"algorithm": "sgd", "lr": 0.1, "options": {"momentum": 0.9, "nesterov": "no"}},
            "torch.optim.SGD: nesterov is the text 'no'; write true or false",
        ),
        ({"algorithm": "adamw", "options": {"foreach": "off"}}, "foreach is the text 'off'; write true"),
        ({"algorithm": "sam", "options": {"base": "sgd", "adaptive": "no"}}, "adaptive is the text 'no'"),
        (
            {"algorithm": "sgd", "groups": [{"a": {"nesterov": "no"}}]},
            "group 'a': nesterov is the text 'no'; write true or false",
        ),
        ({"algorithm": "lbfgs", "weight_decay": 0.1}, r"torch\.optim\.LBFGS has no weight_decay"),
        ({"algorithm": "sgd", "groups": [{"a": {"momentun": 1.0}}]}, "did you mean 'momentum'"),
        ({"algorithm": "sgd", "groups": [{"a": {}, "b": {}}]}, "write '- {match: <pattern>"),
        ({"algorithm": "sgd", "groups": [{"a": 3}]}, "write '- {match: <pattern>"),
        (
            {"algorithm": "sgd", "groups": [{"match": "a", "momentun": 1.0}]},
            "group 'a' sets 'momentun'.*did you mean 'momentum'",
        ),
        ({"algorithm": "sgd", "groups": [{"match": ["a"]}]}, "write '- {match: <pattern>"),
        ({"algorithm": "sgd", "groups": [{"match": "a|", "lr": 1.0}]}, "stands between two patterns"),
        ({"algorithm": "sgd", "groups": ["a"]}, "write '- {match: <pattern>"),
        ({"algorithm": "lookahead"}, "needs another algorithm"),
        (
            {"algorithm": "lookahead", "options": {"base": "adamw", "kk": 1}},
            "no option 'kk'; did you mean 'k'",
        ),
        ({"algorithm": "lookahead", "options": {"base": "adamw", "k": 0}}, "k is 0"),
        ({"algorithm": "lookahead", "options": {"base": "adamw", "alpha": 2.0}}, "alpha is 2.0"),
        ({"algorithm": "sam", "options": {"base": "adamw", "rho": 0.0}}, "rho is 0.0"),
        ({"algorithm": "sam", "options": {"base": "lbfgs"}}, "passes of its own"),
        ({"algorithm": "sam", "options": {"base": "sgdd"}}, "did you mean 'sgd"),
        ({"algorithm": "torch_optimizer.Adahessian"}, "needs the autograd graph"),
    ],
)
def test_a_wrong_option_is_told_when_the_plugin_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        Optim(**options)


def test_lists_of_a_job_become_the_tuples_of_a_class():
    optim = Optim(algorithm="adam", options={"betas": [0.8, 0.9]})
    assert settings_by_name(optim, "betas")["head.bias"] == (0.8, 0.9)


# state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("algorithm", ["adafactor", "adamw", "madgrad", "ranger"])
def test_state_goes_through_bytes_without_loss(algorithm, dtype):
    optim = Optim(algorithm=algorithm)
    half = steps(optim, tensors(1, dtype), range(3))
    saved = pytree.dumps(optim.state_dict())
    straight = steps(optim, half, range(3, 6))
    fresh = Optim(algorithm=algorithm)
    fresh.load_state_dict(pytree.loads(saved))
    assert equal(steps(fresh, half, range(3, 6)), straight)


def test_one_state_can_be_loaded_twice():
    optim = Optim(algorithm="adamw")
    half = steps(optim, tensors(1), range(2))
    saved = pytree.dumps(optim.state_dict())
    straight = steps(optim, half, range(2, 4))
    for _ in range(2):
        optim.load_state_dict(pytree.loads(saved))
        assert equal(steps(optim, half, range(2, 4)), straight)


def test_a_state_loaded_before_the_first_step_can_be_saved_again():
    optim = Optim(algorithm="lamb")
    steps(optim, tensors(1), range(2))
    fresh = Optim(algorithm="lamb")
    fresh.load_state_dict(optim.state_dict())
    assert pytree.dumps(fresh.state_dict()) == pytree.dumps(optim.state_dict())


def test_the_state_before_the_first_step_takes_an_optimizer_back_to_its_start():
    optim = Optim(algorithm="adamw")
    start = optim.state_dict()
    straight = steps(optim, tensors(1), range(3))
    optim.load_state_dict(pytree.loads(pytree.dumps(start)))
    assert equal(steps(optim, tensors(1), range(3)), straight)


def test_state_of_another_algorithm_is_refused():
    optim = Optim(algorithm="adamw")
    steps(optim, tensors(1), range(1))
    with pytest.raises(ValueError, match=r"saved by torch\.optim\.AdamW; this is torch_optimizer\.Lamb"):
        Optim(algorithm="lamb").load_state_dict(optim.state_dict())


# further passes


@pytest.fixture
def helper_threads():
    """Return a function that finds those of this test; others may have left steps that wait."""

    def found():
        return {thread for thread in threading.enumerate() if thread.name == "optimizer-step"}

    before = found()
    return lambda: found() - before


def lbfgs(**options):
    return Optim(algorithm="lbfgs", lr=0.1, options={"max_iter": 3, **options})


def test_there_is_no_state_in_the_middle_of_a_step():
    optim = lbfgs()
    result, _ = step(optim, tensors(1))
    assert isinstance(result, AnotherPass)
    with pytest.raises(RuntimeError, match="only between steps"):
        optim.state_dict()
    optim.load_state_dict({})


def test_a_step_that_was_given_up_leaves_no_thread_and_no_trace(helper_threads):
    optim = lbfgs()
    start = optim.state_dict()
    step(optim, tensors(1))
    assert helper_threads()
    optim.load_state_dict(start)
    assert not helper_threads()
    untouched = lbfgs()
    asked = [step(each, tensors(1))[0].parameters for each in (optim, untouched)]
    for each in (optim, untouched):
        each.load_state_dict({})
    assert equal(*asked)


def test_a_new_step_is_refused_while_another_waits(helper_threads):
    optim = lbfgs()
    step(optim, tensors(1))
    with pytest.raises(RuntimeError, match="load a state first"):
        step(optim, tensors(1))
    assert not helper_threads()


def passes_without_end(optim):
    parameters = tensors(1)
    for pass_index in range(MAX_PASSES + 2):
        result, _ = step(optim, parameters, pass_index, pass_index=pass_index, loss=1.0 + pass_index)
        parameters = result.parameters


def test_an_optimizer_that_never_ends_its_step_is_stopped(helper_threads):
    optim = lbfgs(max_iter=1000, max_eval=1000, tolerance_grad=0.0, tolerance_change=0.0)
    with pytest.raises(RuntimeError, match="more than 100 passes"):
        passes_without_end(optim)
    assert not helper_threads()


def test_sam_takes_its_gradient_at_the_worst_point_nearby():
    parameters, gradients = tensors(1), tensors(2)
    optim = Optim(algorithm="sam", lr=0.1, options={"base": "sgd", "rho": 0.5})
    asked, _ = step(optim, parameters, gradients=gradients)
    moved = torch.cat([(asked.parameters[n] - parameters[n]).flatten() for n in parameters])
    torch.testing.assert_close(torch.linalg.vector_norm(moved), torch.tensor(0.5))
    result, _ = step(optim, asked.parameters, gradients=tensors(3), pass_index=1)
    expected = parameters["head.weight"] - 0.1 * tensors(3)["head.weight"]
    torch.testing.assert_close(result["head.weight"], expected, rtol=0, atol=1e-7)


def test_adaptive_sam_moves_each_weight_in_proportion_to_its_square():
    parameters, gradients = tensors(1), tensors(2)
    options = {"base": "sgd", "rho": 0.5, "adaptive": True}
    asked, _ = step(Optim(algorithm="sam", options=options), parameters, gradients=gradients)
    norm = torch.cat([(parameters[n] * gradients[n]).flatten() for n in parameters]).norm()
    expected = 0.5 * parameters["head.weight"].square() * gradients["head.weight"] / norm
    moved = asked.parameters["head.weight"] - parameters["head.weight"]
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-6)


def test_lookahead_state_holds_the_slow_weights():
    options = {"base": "sgd", "k": 3}
    optim = Optim(algorithm="lookahead", lr=0.1, options=options)
    half = steps(optim, tensors(1), range(2))
    saved = pytree.loads(pytree.dumps(optim.state_dict()))
    straight = steps(optim, half, range(2, 7))
    fresh = Optim(algorithm="lookahead", lr=0.1, options=options)
    fresh.load_state_dict(saved)
    assert equal(steps(fresh, half, range(2, 7)), straight)
