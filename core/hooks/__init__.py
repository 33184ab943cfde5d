"""The contract between the engine and plugins; imports nothing else of ringfence."""
