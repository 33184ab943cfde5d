"""What is on disk of a run, and which job may go on from it."""
