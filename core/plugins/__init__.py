"""Plugins of a run, isolated or trusted: their interface, order, results and faults."""
