"""The outside of the sandbox, in the trainer; imports nothing of `worker`."""
