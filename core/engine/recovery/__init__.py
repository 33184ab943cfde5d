"""Take snapshots, and go back to one: after a fault, or in a new process."""
