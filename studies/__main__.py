"""`python -m studies adaptation` is `heatv2x bench adaptation`."""

import sys

from heatv2x.cli.main import main

if __name__ == "__main__":
    sys.argv = ["heatv2x", "bench", *sys.argv[1:]]  # results name the command that made them
    main()
