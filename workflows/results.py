"""From what the model gave to rows: figures, maps as they are stored, pictures drawn and encoded."""

from collections.abc import Mapping, Sequence

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from afterimage.drawing import draw
from afterimage.registry import Detail, Kind

from .calls import Explained, Pixels, Slot, targets
from .codecs import ImageError
from .details import cells, finite
from .job import Job
from .rows import DRAWN, Row, halved
from .staging import Staging, png

QUALITY = 90


def finish(
    job: Job, batch: Sequence[Row], pixels: Sequence[Pixels], explained: Sequence[Explained | None]
) -> list[tuple[Row, Pixels, Explained]]:
    """Fill the rows of a batch with their figures; return those that have a result to store."""
    done = []
    for row, picture, one in zip(batch, pixels, explained, strict=True):
        if one is None:
            continue
        if _diverged(job, one):
            row.fail("diverged", "the loss ceased to be finite; the picture is the last one before")
            if not _all_finite(one.result):
                row.fail("nonfinite", "the picture is not finite")
                continue
        elif not _finite(job, one):
            row.fail("nonfinite", "the network's output or gradient is not finite on this image")
            continue
        done.append((row, picture, one))
        _predict(job, row, one.logits)
        for detail in job.method.details:
            _detail(job, row, detail, one.details[detail.name])
    for row in batch:
        row.label = _category_of_label(job, row.label)
    return done


def _diverged(job: Job, one: Explained) -> bool:
    flags = [one.details[detail.name] for detail in job.method.details if detail.kind.name == "diverged"]
    return any(bool(flag) for flag in flags if flag is not None)


def _finite(job: Job, one: Explained) -> bool:
    """Whether all figures are finite."""
    own = [(detail, one.details[detail.name]) for detail in job.method.details]
    return (
        _all_finite(one.result)
        and (one.logits is None or bool(one.logits.isfinite().all()))
        and all(finite(detail, value) for detail, value in own if value is not None)
    )


def _all_finite(values: Tensor) -> bool:
    # a finite sum has none but finite terms, and takes a twentieth of the time
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _category_of_label(job: Job, label: str | None) -> str | None:
    """Return the category that a label names, in the model's spelling, or else the label as it came."""
    index = None if label is None else job.classes.get(label)
    return label if index is None else _category(job, index)


def _category(job: Job, index: int) -> str:
    return job.categories[index] if job.categories else str(index)


def _predict(job: Job, row: Row, logits: Tensor | None) -> None:
    chosen = targets(job, [Slot(row.key, row.uri, row.label, None)])
    if logits is None:
        if chosen is not None and job.method.makes_images:
            row.target = _category(job, int(chosen))
        return
    probabilities = logits.softmax(0)
    predicted = int(logits.argmax())
    row.prediction, row.probability = _category(job, predicted), float(probabilities[predicted])
    if job.target != "none" and job.options.get("of") is None:
        target = predicted if chosen is None else int(chosen)
        row.target, row.target_probability = _category(job, target), float(probabilities[target])


def _detail(job: Job, row: Row, detail: Detail, value: Tensor | None) -> None:
    """Put one of the method's details into a row, as far as it is kept."""
    if value is None:
        return
    if detail.kind.name != "images":
        row.details |= cells(detail, value, job.categories)
    elif job.keep == "all":
        row.pictures[detail.name] = jpeg(levels(value))


def keep(job: Job, done: Sequence[tuple[Row, Pixels, Explained]], names: Mapping[str, bytes], staging: Staging) -> None:
    """Put results into their rows, with the pictures that show them as far as they are kept."""
    kind = job.result
    if job.method.makes_images:
        _keep_images(job, done, names, staging)
    elif job.method.makes_maps:
        _keep_maps(job, done)
    for row, picture, one in done:
        if kind.name == "embedding":
            _keep_vector(row, one.result, kind)
        elif kind.name == "peaks":
            row.peaks = one.result.numpy()
        if kind.name in ("embedding", "peaks") and job.keep == "all" and picture is not None:
            row.pictures["thumbnail"] = jpeg(bounded(picture))


def _keep_vector(row: Row, vector: Tensor, kind: Kind) -> None:
    stored = vector.numpy().astype(kind.dtype)
    if len(stored) != kind.width:
        row.fail("model_failed", f"expected a vector of {kind.width} numbers, as of other images, got {len(stored)}")
    elif not np.isfinite(stored).all():
        row.fail("nonfinite", f"the vector has numbers beyond what {kind.dtype} holds; use --dtype float32")
    else:
        row.vector = stored


def select_peaks(job: Job, rows: Sequence[Row]) -> None:
    """Let the rows of a shard keep the peaks that are among the largest of it, as channel, value, row and column."""
    own = [(row, row.peaks) for row in rows if row.peaks is not None]
    if job.result.name != "peaks" or not own:
        return
    peaks = np.stack([mine for _, mine in own])
    chosen = job.method.cls(**job.options).select(peaks[:, :, 0], [row.key for row, _ in own])
    for (row, mine), taken in zip(own, chosen, strict=True):
        channels = np.flatnonzero(taken).astype(np.float32)
        row.peaks = np.column_stack([channels, mine[taken]])


def _keep_maps(job: Job, done: Sequence[tuple[Row, Pixels, Explained]]) -> None:
    """Put maps into their rows, and the pictures drawn from them, as far as they are kept."""
    if job.keep == "none" or not done:
        return
    heatmaps = torch.stack([one.result for _, _, one in done])
    for (row, _, _), half in zip(done, halved(shrunk(heatmaps, job.heatmap_size)), strict=True):
        row.heatmap = half
    if job.keep == "heatmap":
        return
    pixels = [picture for _, picture, _ in done if picture is not None]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255)
    drawn = {"drawing": draw(heatmaps), "overlay": draw(heatmaps, images)}
    for place, ((row, _, _), picture) in enumerate(zip(done, pixels, strict=True)):
        row.pictures["thumbnail"] = jpeg(picture)
        for name, pictures in drawn.items():
            row.pictures[name] = jpeg(pictures[place].permute(1, 2, 0).contiguous().numpy())


def _keep_images(
    job: Job, done: Sequence[tuple[Row, Pixels, Explained]], names: Mapping[str, bytes], staging: Staging
) -> None:
    """Write the pictures that a method made, and put into the rows where they are and how they look."""
    for row, picture, one in done:
        made, name = levels(one.result), names[row.key]
        try:
            data = png(made) if job.photos is None or row.photo is None else job.photos.encoded(name, made, row.photo)
        except ImageError as error:
            row.fail(error.status, error.message)
            continue
        row.file, row.file_sha256 = staging.add(name, data)
        row.file_height, row.file_width = made.shape[:2]
        if job.keep == "all":
            row.pictures["drawing"] = jpeg(bounded(made))
            if picture is not None:
                row.pictures["thumbnail"] = jpeg(bounded(picture))


def levels(image: Tensor) -> np.ndarray:
    """Return a picture `(3, H, W)` in [0, 1] as `(H, W, 3)` uint8."""
    rounded = image.float().clamp(0, 1).mul_(255).round_().to(torch.uint8)
    return rounded.permute(1, 2, 0).contiguous().numpy()


def shrunk(heatmaps: Tensor, side: int | None) -> Tensor:
    """Return maps whose longer side is at most `side`: each value the mean of the pixels that it stands for."""
    height, width = heatmaps.shape[2:]
    if side is None or max(height, width) <= side:
        return heatmaps
    factor = side / max(height, width)
    shape = max(1, round(height * factor)), max(1, round(width * factor))
    return F.interpolate(heatmaps, shape, mode="area")


def bounded(picture: np.ndarray) -> np.ndarray:
    """Return a picture whose longer side is at most `DRAWN`."""
    if max(picture.shape[:2]) <= DRAWN:
        return picture
    image = Image.fromarray(picture)
    image.thumbnail((DRAWN, DRAWN), Image.Resampling.LANCZOS, reducing_gap=None)
    return np.asarray(image)


def jpeg(picture: np.ndarray) -> bytes:
    """Encode an `(H, W, 3)` uint8 picture."""
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture), QUALITY, colorspace="RGB", colorsubsampling="420"
    )
    return encoded
