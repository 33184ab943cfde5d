"""Watch gradients, weights, updates and outputs."""

from .plugin import Monitor

__all__ = ["Monitor"]
