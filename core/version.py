"""The version of the core; its first two numbers name the series."""

__version__ = "0.4.0rc1"
