"""A plugin of a run, wherever it runs: its interface, order, results and faults."""
