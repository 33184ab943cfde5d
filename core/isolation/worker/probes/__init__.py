"""Try what must not work, from inside."""
