"""The INSIDE of the sandbox; imports nothing of `host`."""
