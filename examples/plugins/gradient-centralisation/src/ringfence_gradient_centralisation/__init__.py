"""Take its mean away from the gradient of each weight."""

from .plugin import GradientCentralisation

__all__ = ["GradientCentralisation"]
