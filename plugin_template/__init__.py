"""The cookiecutter template of a plugin; importable so that an installed ringfence can find it."""
