"""Build the model of a job: a builtin one, or what a function of the user's returns."""

from .registry import MODELS, build_model, check_model
from .shape import Shape, shape_of

__all__ = ["MODELS", "Shape", "build_model", "check_model", "shape_of"]
