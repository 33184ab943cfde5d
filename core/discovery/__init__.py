"""Find plugins by their metadata; nothing of them is imported."""
