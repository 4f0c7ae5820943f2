"""The entry of the command `afterimage`: workers that will be needed begin to start before torch is imported here."""

import sys

from .forks import warm_up

WITHOUT_WORKERS = {"layers", "methods", "page", "status", "verify"}


def main() -> None:
    """Run the command line."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    alone = {"-h", "--help", "--version", "--scheduler", "--dry-run"} & {word.partition("=")[0] for word in sys.argv}
    if len(words) > 1 and words[0] not in WITHOUT_WORKERS and not alone:
        warm_up()
    from .cli import main

    main()
