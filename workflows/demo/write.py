"""Write the embedded data set into a folder: `images/<class>/<index>.png` and `masks/<class>/<index>.png`."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from afterimage.errors import UsageError
from afterimage.models.demo import CATEGORIES
from afterimage.workflows.demo.shapes import draw

SEED = 3
"""Neither the training's nor the held-out measurement's."""


def write(folder: Path, count: int = 240, seed: int = SEED) -> Path:
    """Write `count` pictures and their masks (0 or 255), the classes in turn; return the folder of the images.

    The bytes follow from `count` and `seed`; a file that already holds them is left alone.
    """
    if count < 1:
        raise UsageError(f"expected a count of at least 1, got {count}")
    for index in range(count):
        sample = draw(index, seed)
        name = f"{CATEGORIES[sample.label]}/{index:05}.png"
        keep(folder / "images" / name, sample.image[..., ::-1])
        keep(folder / "masks" / name, sample.mask.astype(np.uint8) * 255)
    return folder / "images"


def keep(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write the picture as PNG unless the file already holds these bytes."""
    done, encoded = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise OSError(f"OpenCV could not encode {path}")
    content = encoded.tobytes()
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
