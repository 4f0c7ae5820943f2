"""The pictures of one attempt at a shard: on the disk under temporary names, until its commit puts them into place."""

import hashlib
import io
import os
import shutil
import uuid
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np
from PIL import Image

from .files import sync_folder
from .picture_names import anew

FOLDER = "images"
PREFIX = ".staged-"


def png(picture: np.ndarray) -> bytes:
    """Encode an `(H, W, 3)` uint8 picture without loss; equal pictures give equal bytes."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", compress_level=6)
    return file.getvalue()


class Staging:
    """Files to appear below a job's folder together; what was not put is gone when the context ends."""

    def __init__(self, job: Path) -> None:
        self._job = job
        self._folder = job / FOLDER / f"{PREFIX}{uuid.uuid4().hex}"
        self._staged: dict[str, Path] = {}

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, name: bytes, data: bytes) -> tuple[str, str]:
        """Write a picture that is to appear as `name` in the folder of pictures; return its `file` and sha256."""
        file = f"{FOLDER}/{quote_from_bytes(name)}"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / str(len(self._staged))
        with path.open("wb") as written:
            written.write(data)
            written.flush()
            os.fsync(written.fileno())
        self._staged[file] = path
        return file, hashlib.sha256(data).hexdigest()

    def spare(self, file: str, sha256: str, before: tuple[str, str], generation: int) -> str:
        """Return the name that a retried picture takes where one is committed: `before` is that one's name and sha256.

        The same picture again is not written; another gets a name of its own, since a committed file never changes.
        """
        staged = self._staged.pop(file)
        if sha256 == before[1]:
            return before[0]
        name = unquote_to_bytes(file).removeprefix(f"{FOLDER}/".encode())
        file = f"{FOLDER}/{quote_from_bytes(anew(name, generation))}"
        self._staged[file] = staged
        return file

    def put(self) -> None:
        """Move all to their places, and bring the moves to the disk."""
        folders: set[Path] = set()
        for file, staged in self._staged.items():
            place = path_of_file(self._job, file)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, place)
            folders |= {folder for folder in place.parents if folder.is_relative_to(self._job)}
        for folder in folders:
            sync_folder(folder)


def path_of_file(job: Path, file: str) -> Path:
    """Return where the picture lies that a row's `file` names."""
    return job / os.fsdecode(unquote_to_bytes(file))


def forget_staged(job: Path) -> None:
    """Remove what attempts left behind whose worker was killed."""
    for folder in (job / FOLDER).glob(f"{PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
