"""A state that is loaded under other options: what they say holds, and all else goes on as it was."""

import pytest
import torch

from ringfence import PluginError
from ringfence.builtin.optim import Optim
from ringfence.builtin.optim.algorithms import WRAPPERS
from ringfence.plugins.interface import PluginSpec
from ringfence.plugins.local_plugin import LocalPlugin
from ringfence.tensors import pytree

from .test_optim_algorithms import (
    ALGORITHMS,
    STEPS,
    WEIGHT_DECAY,
    WRAPPED,
    make_net,
    parameters_of,
    same,
    takes,
    train,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:This overload of"),
    pytest.mark.filterwarnings("ignore:An output with one or more elements was resized"),
]
LR, EDITED_LR = 0.002, 0.0005


def local(algorithm, **changes):
    options = {"algorithm": algorithm, "lr": LR} | changes
    if algorithm in WRAPPERS:
        options = {"options": WRAPPED} | options
    return LocalPlugin(
        PluginSpec(
            "optim", "ringfence", "0", "ringfence.builtin.optim", "Optim", "optimizer", options=options
        )
    )


def saved_by(optim, net):
    """Train half way; return the parameters and the state as a checkpoint would hold it."""
    half = train(optim, net, parameters_of(net), range(STEPS // 2))
    return half, pytree.decode(pytree.encode(optim._instance.state_dict()))


def load(optim, state):
    """Hand over a copy: what is loaded is the plugin's own."""
    optim._instance.load_state_dict(pytree.decode(pytree.encode(state)))


def go_on(optim, net, half, state, change=None):
    load(optim, state)
    if change is not None:
        bound = optim._instance._bind(half.clone())
        change(bound.optimizer.param_groups)
    return train(optim, net, half, range(STEPS // 2, STEPS))


def groups_of(optim):
    groups = optim._instance._bound.optimizer.param_groups
    return [{key: value for key, value in group.items() if key != "params"} for group in groups]


WITH_LR = [algorithm for algorithm in ALGORITHMS if takes(algorithm, "lr")]


@pytest.mark.parametrize("algorithm", WITH_LR)
def test_an_edited_lr_holds_and_nothing_else_changes(algorithm):
    try:
        half, state = saved_by(local(algorithm), net := make_net())
    except PluginError:
        pytest.skip("cannot be used at all; test_optim_algorithms says why")

    def set_lr(groups):
        for group in groups:
            # Apollo keeps what it was built with beside it.
            group.update({key: EDITED_LR for key in ("lr", "base_lr") if key in group})

    edited, by_hand = local(algorithm, lr=EDITED_LR), local(algorithm, lr=EDITED_LR)
    # Saved under these options, as far as it knows: nothing is overruled but what is set by hand.
    unedited = state | {"options": by_hand._instance._options}
    expected = go_on(by_hand, net, half, unedited, set_lr)
    assert same(go_on(edited, net, half, state), expected, 0.0)
    assert groups_of(edited) == groups_of(by_hand)
    # The state that it saves is its own: it resumes to the same, without a word.
    again = local(algorithm, lr=EDITED_LR)
    middle = pytree.decode(pytree.encode(edited._instance.state_dict()))
    end = train(edited, net, expected, range(STEPS, STEPS + 2))
    load(again, middle)
    assert same(train(again, net, expected, range(STEPS, STEPS + 2)), end, 0.0)


def test_an_edited_lr_is_that_of_the_class_alone():
    """The other way to see it: torch's own optimizer, whose lr is set in the middle."""
    net = make_net()
    half, state = saved_by(local("torch.optim.AdamW", weight_decay=0.0), net)
    result = go_on(local("torch.optim.AdamW", weight_decay=0.0, lr=EDITED_LR), net, half, state)

    alone = make_net()
    optimizer = torch.optim.AdamW(alone.parameters(), lr=LR, weight_decay=0.0)
    from .test_optim_algorithms import loss_at, lr_factor

    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = (LR if step < STEPS // 2 else EDITED_LR) * lr_factor(step)
        loss_at(alone, step)
        optimizer.step()
    assert same(result, parameters_of(alone), 0.0)


def test_what_an_algorithm_has_found_by_itself_stays_unless_the_job_says_otherwise():
    """SWATS sets its own learning rate when it changes to SGD."""
    optim = local("swats")
    half, state = saved_by(optim, net := make_net())
    for group in state["optimizer"]["param_groups"]:
        group["lr"], group["phase"] = 0.25, "SGD"
    kept = local("swats", weight_decay=WEIGHT_DECAY)
    load(kept, state)
    train(kept, net, half, range(STEPS // 2, STEPS // 2 + 1))
    assert [(group["lr"], group["phase"]) for group in groups_of(kept)] == [(0.25, "SGD")] * 2
    told = local("swats", lr=EDITED_LR)
    load(told, state)
    train(told, net, half, range(STEPS // 2, STEPS // 2 + 1))
    assert [group["lr"] for group in groups_of(told)] == [EDITED_LR]


GROUPED = ["adamw", "lamb", "madgrad", "muon", "lookahead", "sam", "shampoo"]


@pytest.mark.parametrize("algorithm", GROUPED)
def test_other_groups_take_the_moments_along_by_name(algorithm):
    """Groups with the same settings change nothing: only how the state is laid out."""
    half, state = saved_by(local(algorithm, weight_decay=WEIGHT_DECAY), net := make_net())
    expected = go_on(local(algorithm, weight_decay=WEIGHT_DECAY), net, half, state)
    pattern = {"norm.*": {"lr": LR}}
    regrouped = local(algorithm, weight_decay=WEIGHT_DECAY, groups=[pattern])
    assert same(go_on(regrouped, net, half, state), expected, 1e-6 if algorithm == "sam" else 0.0)
    # And back, from the groups that were made to those before.
    middle = pytree.decode(pytree.encode(regrouped._instance.state_dict()))
    end = train(regrouped, net, expected, range(STEPS, STEPS + 2))
    back = local(algorithm, weight_decay=WEIGHT_DECAY)
    load(back, middle)
    # Sam sums over the parameters, in the order of the groups.
    tolerance = 1e-6 if algorithm == "sam" else 0.0
    assert same(train(back, net, expected, range(STEPS, STEPS + 2)), end, tolerance)


def test_decay_that_is_switched_on_splits_the_groups_and_holds_for_matrices_only():
    half, state = saved_by(local("adamw", weight_decay=0.0), net := make_net())
    decays = local("adamw", weight_decay=0.5)
    go_on(decays, net, half, state)
    assert [group["weight_decay"] for group in groups_of(decays)] == [0.5, 0.0]
    steps = decays._instance.state_dict()["optimizer"]["state"]
    assert {int(entry["step"]) for entry in steps.values()} == {STEPS}


def test_a_setting_of_the_class_may_change_on_the_way():
    half, state = saved_by(local("sgd", options={"momentum": 0.9}), net := make_net())
    edited = local("sgd", options={"momentum": 0.5})
    go_on(edited, net, half, state)
    assert {group["momentum"] for group in groups_of(edited)} == {0.5}
    assert {group["lr"] for group in groups_of(edited)} == {LR}


def test_a_state_over_another_base_is_refused_at_once():
    _, state = saved_by(local("sam"), make_net())
    other = Optim(algorithm="sam", lr=LR, options={"base": "adamw"})
    with pytest.raises(ValueError, match=r"sam over torch\.optim\.SGD; this is sam over torch\.optim\.A"):
        other.load_state_dict(state)


def test_a_state_of_an_early_version_resumes_as_it_was_saved():
    half, state = saved_by(local("lookahead"), net := make_net())
    expected = go_on(local("lookahead"), net, half, state)
    early = {key: state[key] for key in ("algorithm", "names", "optimizer")}
    assert same(go_on(local("lookahead"), net, half, early), expected, 0.0)


def test_a_state_of_other_parameters_is_refused():
    half, state = saved_by(local("adamw"), net := make_net())
    state["names"] = [[f"other.{name}" for name in group] for group in state["names"]]
    with pytest.raises(PluginError, match="belongs to other parameters"):
        go_on(local("adamw", lr=EDITED_LR), net, half, state)
