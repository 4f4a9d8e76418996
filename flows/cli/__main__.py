"""`python -m flows.cli` is `cpt`."""

from flows.cli import main

if __name__ == "__main__":
    main()
