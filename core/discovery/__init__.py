"""Which plugins there are, told from metadata; nothing of them is imported."""
