"""Names in a job for objects that a Python program had handed over: ``<MyNet>``, which is no other name."""

from __future__ import annotations


def label_of(name: str) -> str:
    """Return what an object is called in messages and records: the name that the job has for it, unmarked."""
    return name.removeprefix("<").removesuffix(">")


def is_object_name(name: str) -> bool:
    """Tell whether a job's name stands for an object that a program had handed over."""
    return name.startswith("<") and name.endswith(">")


def missing_object(key: str, name: str) -> str:
    """Return what is wrong with a job that names an object which nobody has handed over."""
    return (
        f"'{name}' was an object of the Python program that began the run, and no file can name it; hand it "
        f"over again: ringfence.train(out=…, resume=True, {key}=…)"
    )
