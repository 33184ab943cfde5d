"""What runs in the trainer: the outside of the sandbox; imports nothing of `worker`."""
