"""The policy of the sandbox, as data: both sides read it, and neither is imported here."""
