"""Augmentation of images and tokens: algorithms on whole batches, and any transform of albumentations."""

from .plugin import Augment, names, token_names

__all__ = ["Augment", "names", "token_names"]
