"""Read a plugin as text; nothing of it runs."""
