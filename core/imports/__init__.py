"""Guards and search paths of imports: who may import what, and from where."""
