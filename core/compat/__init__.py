"""Check that a plugin fits the last three series of the core, by its range, its text and its class."""
