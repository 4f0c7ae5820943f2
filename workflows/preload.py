"""What workers need and import late: imported here once, in the process that they are forked from."""

from contextlib import suppress

# A torchvision that does not fit torch fails with RuntimeError; who needs it gets that error where it is used.
with suppress(ImportError, RuntimeError):
    import torchvision  # noqa: F401
