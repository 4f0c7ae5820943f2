"""Methods over data sets: manifests, shards, Dask, pages and the command line."""

from .cluster import serial
from .run import Summary, run
from .status import status, verify

__all__ = ["Summary", "run", "serial", "status", "verify"]
