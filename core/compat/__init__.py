"""Does a plugin fit the last three series of the core? Told from its range, its text and its class."""
