"""Numbers of a run handed to the loggers of others, by a process of its own beside the trainer.

A file is a logger. Whatever it imports runs with everything that its user may do: so it never runs in the
trainer, and nobody imports it who does not ask for it.
"""
