"""One call of a plugin: its request, its memory, its reply."""
