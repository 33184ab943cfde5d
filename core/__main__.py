"""Run the command line: ``python -m ringfence``."""

from .start import main

if __name__ == "__main__":
    main()
