"""Run the command line: ``python -m ringfence``."""

from .cli import main

if __name__ == "__main__":
    main()
