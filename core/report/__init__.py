"""The page made of a run's folder."""
