"""What runs INSIDE the sandbox; imports nothing of `host`."""
