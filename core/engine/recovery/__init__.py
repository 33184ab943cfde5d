"""Back to a snapshot: after a fault, or in a new process."""
