"""What a plugin may do, as data: both sides of the sandbox read it, and neither is imported here."""
