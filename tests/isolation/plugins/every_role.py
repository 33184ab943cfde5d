"""A plugin of every role that there is, which takes all that its hooks give and returns what they may."""

import inspect
from collections.abc import Mapping

import torch

from ringfence import AnotherPass, Batch, LossScale, LossTerm, Report
from ringfence.hooks.specs import ROLES
from ringfence.plugins.result_kinds import (
    BATCH,
    GRADIENTS,
    LOSS,
    NUMBER,
    PARAMETERS,
    REPORT,
    UPDATED,
    kinds_of,
)


def tensors(value):
    """Return all the tensors of an argument."""
    match value:
        case Batch():
            return [value.inputs, value.targets, value.indices]
        case Mapping():
            return [torch.as_tensor(each) for each in value.values()]
        case torch.Tensor():
            return [value]
    return [torch.tensor(value)]


def number(given):
    """Return a number that depends on every bit of what a method is given."""
    return sum(float(tensor.double().sum()) for value in given.values() for tensor in tensors(value))


def batch(given):
    return given["batch"].with_(inputs=given["batch"].inputs / 3, targets=given["batch"].soft_targets())


def scaled(name):
    return lambda given: {key: value / 3 for key, value in given[name].items()}


#: Kind of result to what is returned of it, one after another.
RETURNS = {
    BATCH: [batch],
    LOSS: [
        lambda given: LossTerm(given["loss"] / 3, given["outputs"] / 3),
        lambda given: LossScale(1 / 3),
    ],
    GRADIENTS: [scaled("gradients")],
    PARAMETERS: [scaled("parameters")],
    UPDATED: [scaled("parameters"), lambda given: AnotherPass(scaled("parameters")(given))],
    REPORT: [lambda given: Report({"number": number(given)})],
    NUMBER: [number],
}


def method(hook, kind):
    """Return a method with the arguments of ``hook`` that returns all of ``kind`` in turn, and then None."""

    def run(self, **given):
        step = given.pop("step")
        noise = torch.rand((), generator=step.generator())
        step.log("seen", number(given) + float(noise) + float(torch.rand(())))
        made = [*RETURNS[kind], lambda given: None]
        return made[step.global_step % len(made)](given)

    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([this, *inspect.signature(hook).parameters.values()])
    return run


for role in ROLES.values():
    kinds = kinds_of(role)
    methods = {name: method(each.hook, kinds[name]) for name, each in role.methods.items()}
    globals()[role.name.title()] = type(role.name.title(), (), {"role": role.name, **methods})
