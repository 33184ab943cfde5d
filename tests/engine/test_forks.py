"""A process that the user's code forks never comes back as a second trainer, whichever way it comes out."""

import itertools
import os
import signal
import sys

import pytest
import torch
from engine_helpers import config, hooks_of, image_data, mlp, run, same_weights, sgd

from ringfence.engine import forks
from ringfence.engine.forks import ending_forks
from ringfence.engine.setup import Setup
from ringfence.engine.trial import try_out


def forking(at, then):
    """Return a network that forks in the forward pass numbered ``at``, and how its children end.

    What the child does next is ``then``. The count lies outside the network, whose own a trial puts back.
    """
    calls, statuses = itertools.count(), []

    def fork(*_):
        if next(calls) != at:
            return
        if (child := os.fork()) == 0:
            signal.alarm(20)
            then()
        else:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    model = mlp()
    model.register_forward_pre_hook(fork)
    return model, statuses


def fail():
    raise ValueError("no")


def interrupted():
    raise KeyboardInterrupt


WAYS_OUT = [(lambda: None, 1), (fail, 1), (lambda: sys.exit(5), 5), (interrupted, 130)]


@pytest.fixture(autouse=True)
def _one_thread():
    """A child has none of the threads that torch may have begun here, and would wait for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def once_in_a_child(call):
    """Do it, as a script that goes on whatever happens: 66 tells that a child came so far."""
    trainer = os.getpid()
    try:
        return call()
    finally:
        if os.getpid() != trainer:
            os._exit(66)


@pytest.mark.parametrize(("then", "status"), WAYS_OUT)
def test_the_trial_of_a_model_is_left_by_its_caller_alone(then, status):
    (model, statuses), data = forking(0, then), image_data()
    setup = Setup.of(model, data, config())
    once_in_a_child(lambda: try_out(setup))
    assert statuses == [status]


@pytest.mark.parametrize(("then", "status"), WAYS_OUT)
@pytest.mark.parametrize("at", [0, 5, 10])
def test_a_run_is_left_by_its_caller_alone(at, then, status):
    """In the trial, in a step, and in the evaluation at its end."""
    (model, statuses), expected = forking(at, then), mlp()
    once_in_a_child(lambda: run(model, image_data(), hooks_of(sgd()), config(epochs=1)))
    run(expected, image_data(), hooks_of(sgd()), config(epochs=1))
    assert statuses == [status]
    assert same_weights(model, expected)


def test_without_the_guard_a_child_comes_back():
    (model, statuses), data = forking(0, lambda: None), image_data()
    setup = Setup.of(model, data, config())
    unguarded = try_out.__wrapped__.__wrapped__
    once_in_a_child(lambda: unguarded(setup))
    assert statuses == [66]


def test_the_one_who_entered_leaves_with_what_was_raised():
    with pytest.raises(ValueError, match="no"), ending_forks():
        fail()


def test_an_interrupted_child_says_nothing_as_its_trainer_does(capfd):
    if (child := os.fork()) == 0:
        forks._end(KeyboardInterrupt())

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert capfd.readouterr() == ("", "")
