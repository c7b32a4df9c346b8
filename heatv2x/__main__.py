"""`python -m heatv2x` is `heatv2x`."""

from heatv2x.cli.main import main

if __name__ == "__main__":
    main()
