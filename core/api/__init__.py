"""The Python face of ringfence: train, look at a run. The command line is a thin layer on it."""
