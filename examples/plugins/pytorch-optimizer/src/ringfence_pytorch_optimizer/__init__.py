"""Update the parameters with an optimizer of the package pytorch_optimizer."""

from .plugin import PytorchOptimizer

__all__ = ["PytorchOptimizer"]
