"""Generated JPEGs that resemble a folder of photographs: crops of scikit-image's, made once, the same everywhere."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks import STORE

SOURCES = "astronaut chelsea coffee motorcycle_left motorcycle_right rocket retina hubble_deep_field camera coins brick"
SIDES = (256, 640)
QUALITIES = (85, 95)
NOISE = 3.0
"""Standard deviation of the added sensor noise, in 8-bit steps: enlarged crops would be smoother than photographs."""


def photographs(count: int) -> Path:
    """Return a folder of `count` JPEGs in subfolders of 100, making it on first use."""
    folder = STORE / "data" / f"photographs-{count}"
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        for number in range(0, count, 100):
            (unfinished / f"{number // 100:03d}").mkdir(parents=True)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(save, unfinished), range(count), chunksize=50))
        unfinished.rename(folder)
    return folder


def save(folder: Path, number: int) -> None:
    """Write one photograph; what it shows depends on its number alone."""
    random = np.random.default_rng(number)
    image = photograph(random)
    file = folder / f"{number // 100:03d}" / f"{number:05d}.jpg"
    image.save(file, quality=int(random.integers(*QUALITIES, endpoint=True)))


def photograph(random: np.random.Generator) -> Image.Image:
    """Return a random crop of a random picture, resized, flipped, with other light and some noise."""
    picture = source(str(random.choice(SOURCES.split())))
    width, height = (int(side) for side in random.integers(*SIDES, 2, endpoint=True))
    zoom = random.uniform(0.5, 1.0) * min(picture.width / width, picture.height / height)
    left, top = random.uniform() * (picture.width - zoom * width), random.uniform() * (picture.height - zoom * height)
    box = (left, top, left + zoom * width, top + zoom * height)
    crop = picture.resize((width, height), Image.Resampling.BICUBIC, box)
    if random.uniform() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        crop = enhancer(crop).enhance(random.uniform(0.7, 1.3))
    noisy = np.asarray(crop) + random.normal(0, NOISE, (height, width, 3))
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


@lru_cache
def source(name: str) -> Image.Image:
    """Return one of scikit-image's pictures, in RGB."""
    import skimage  # type: ignore[import-untyped]

    (file,) = (Path(skimage.__file__).parent / "data").glob(f"{name}.*")
    return Image.open(file).convert("RGB")
