"""What a plugin may take of the machine: memory, processor, files, time."""
