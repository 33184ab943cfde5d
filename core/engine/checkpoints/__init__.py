"""Checkpoints on disk: write them, keep a few, check that a job may go on from one."""
