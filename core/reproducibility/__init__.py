"""Seeds, states of generators, deterministic algorithms."""
