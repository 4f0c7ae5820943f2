"""The entry of the command `afterimage`: workers that will be needed begin to start before torch is imported here."""

import atexit
import os
import sys

from .forks import warm_up

COMMANDS = {
    "bias": "biases",
    "explore": "exploring",
    "facets": "facets",
    "filters": "filters",
    "neighbors": "neighborhood",
    "neurons": "neuron_patches",
    "project": "projection",
    "style-export": "style_exporting",
    "style-train": "style_training",
    "universal-patch": "universal_patch",
}
"""Verbs that are no method's run, by the module that has their `command`."""
WITHOUT_WORKERS = {*COMMANDS, "layers", "methods", "page", "status", "verify"}


def main() -> None:
    """Run the command line."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    alone = {"-h", "--help", "--version", "--scheduler", "--dry-run"} & {word.partition("=")[0] for word in sys.argv}
    if len(words) > 1 and words[0] not in WITHOUT_WORKERS and not alone:
        warm_up()
    from .cli import main

    try:
        main()
    except SystemExit as end:
        # Taking torch's modules apart one by one takes seconds and frees nothing that the end of the process does not.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
