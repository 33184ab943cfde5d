"""Make ``engine_helpers`` importable: by the tests, and by name, as a plugin's module is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
