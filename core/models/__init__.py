"""Build the model of a job: a builtin one, or what a function of the user's returns."""

from .data_shape import Shape, shape_of
from .model_registry import MODELS, build_model, check_model

__all__ = ["MODELS", "Shape", "build_model", "check_model", "shape_of"]
