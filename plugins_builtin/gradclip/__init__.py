"""Clip gradients by their norm, by value, or layer by layer."""

from .plugin import GradClip

__all__ = ["GradClip"]
