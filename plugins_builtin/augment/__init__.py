"""Augmentation of images: named algorithms on whole batches, and any transform of albumentations."""

from .plugin import Augment, names

__all__ = ["Augment", "names"]
