"""What workers need and import late: imported here once, in the process that they are forked from."""

import signal
from contextlib import suppress

# Before the server of forks notes its handlers for its children: Ctrl-C in a terminal is the client's business.
signal.signal(signal.SIGINT, signal.SIG_IGN)

# A torchvision that does not fit torch fails with RuntimeError; who needs it gets that error where it is used.
with suppress(ImportError, RuntimeError):
    import torchvision  # noqa: F401
