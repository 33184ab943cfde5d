"""The layers that a worker puts on itself before any code of a plugin is loaded."""
