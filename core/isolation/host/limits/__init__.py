"""Limits on what a plugin takes of the machine: memory, processor, files, time."""
