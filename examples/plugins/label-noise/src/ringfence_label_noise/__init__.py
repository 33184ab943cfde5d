"""Find samples whose labels are probably wrong, by how training goes on them."""

from .plugin import LabelNoise

__all__ = ["LabelNoise"]
