"""Tensors as bytes and in buffers."""
