"""`python -m afterimage` is the command `afterimage`."""

from afterimage.workflows.cli import main

if __name__ == "__main__":
    main()
