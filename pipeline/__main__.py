"""`python -m afterimage` is the command `afterimage`."""

from afterimage.workflows.command import main

if __name__ == "__main__":
    main()
