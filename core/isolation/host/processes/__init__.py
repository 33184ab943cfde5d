"""Processes of plugins: fork, lock up, load, collect."""
