"""Grants: what a job opens to a plugin, and what was tried beyond that."""
