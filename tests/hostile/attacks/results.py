"""Return what is no answer: numbers that poison, shapes and types that do not fit, or nothing of the kind."""

import torch


def _filled(gradients, value):
    return {name: torch.full_like(gradient, value) for name, gradient in gradients.items()}


def nan(aim, gradients, step):
    return _filled(gradients, float("nan"))


def infinite(aim, gradients, step):
    return _filled(gradients, float("-inf"))


def one_nan(aim, gradients, step):
    changed = {name: gradient.clone() for name, gradient in gradients.items()}
    next(iter(changed.values())).view(-1)[-1] = float("nan")
    return changed


def sum_of_nothing(aim, gradients, step):
    """Infinities that cancel out are no number either."""
    changed = _filled(gradients, float("inf"))
    for tensor in changed.values():
        tensor.view(-1)[0] = float("-inf")
    return changed


def wrong_shape(aim, gradients, step):
    return {name: torch.zeros(7, 5, 3) for name in gradients}


def wrong_dtype(aim, gradients, step):
    return {name: gradient.to(torch.complex64) for name, gradient in gradients.items()}


def more_elements(aim, gradients, step):
    return {name: torch.zeros(1 << 20) for name in gradients}


def missing_name(aim, gradients, step):
    return {}


def unknown_name(aim, gradients, step):
    return {**gradients, "\x1b[31mother\n": torch.zeros(1)}


def no_mapping(aim, gradients, step):
    return 7


def no_tensors(aim, gradients, step):
    return dict.fromkeys(gradients, "a tensor")


def without_memory(aim, gradients, step):
    return {name: torch.empty(gradient.shape, device="meta") for name, gradient in gradients.items()}


class _Liar(torch.Tensor):
    told = torch.Size(())
    shape = property(lambda self: self.told)


def lying_subclass(aim, gradients, step):
    """Tensors that tell of themselves the shape that is wanted, and have another."""
    name, gradient = next(iter(gradients.items()))
    _Liar.told = gradient.shape
    return {**gradients, name: torch.zeros(3, 3).as_subclass(_Liar)}
