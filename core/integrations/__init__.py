"""Plugins for training loops that are not ours, and thin adapters to frameworks."""
