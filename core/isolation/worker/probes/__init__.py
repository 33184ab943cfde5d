"""Probes: try from inside what must not work."""
