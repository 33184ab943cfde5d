"""Run the command line: ``python -m ringfence``."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # The current folder holds anything; what a job names there is found beside the job.
        del sys.path[0]

    from .cli.main import main

    main()
