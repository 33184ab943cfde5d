"""Who may import what, and from where."""
