"""A plugin that prints, and one that leaves files."""

import os
import sys
import time
from pathlib import Path

from ringfence import passthrough


class Talking:
    role = "gradient"
    forward = passthrough

    def __init__(self, lines: int = 0, crash: bool = False, fault: str = ""):
        self.lines = lines
        self.crash = crash
        self.fault = fault
        print("made", "\x1b[2J")

    def backward(self, gradients, step):
        for number in range(self.lines):
            print("line", number)
        print("to stderr", file=sys.stderr)
        if self.crash:
            os.abort()
        if self.fault == "raise":
            raise ValueError("told last")
        if self.fault == "hang":
            time.sleep(60)
        if self.fault == "nan":
            return {name: value * float("nan") for name, value in gradients.items()}
        print("no end", end="", flush=True)
        return None


class Leaving:
    role = "gradient"
    forward = passthrough

    def __init__(self, files: int = 0):
        self.files = files

    def backward(self, gradients):
        for number in range(self.files):
            Path(f"{number}\n").write_text("x")
