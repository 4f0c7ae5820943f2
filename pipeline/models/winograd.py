"""Convolutions of frozen 3 × 3 weights by Winograd's minimal filtering, F(4 × 4, 3 × 3): a quarter of the products.

    y = Aᵀ [ Σ_c (G w Gᵀ) ⊙ (Bᵀ x B) ] A        for each 4 × 4 tile of y and the 6 × 6 of x below it

The sum over channels is 36 products of matrices. The gradient by x is the same with the weights turned and transposed.
Errors are some ten roundings of float32 instead of three: 1e-5 of the largest output.

Lavin, Gray, Fast algorithms for convolutional neural networks, CVPR 2016 (arXiv:1509.09308), section 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS, POSITIONS = 128, 400
"""Of fewer channels, or over fewer positions, transforming takes longer than the products save."""
BLOCK = 2**22
"""How many transformed numbers are worked on at a time: they stay in the cache."""

_INPUT = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0),
          (0, 4, 0, -5, 0, 1))  # fmt: skip
_WEIGHT = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
"""24 G."""
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def transformed(weight: Tensor) -> Tensor:
    """Return G w Gᵀ of weights (O, C, 3, 3): (36, C, O)."""
    flat = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (_both_ways(_WEIGHT) / 24**2 @ flat).view(36, weight.shape[1], weight.shape[0])


def _both_ways(matrix: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return the matrix that transforms flattened tiles by rows and by columns."""
    one = torch.tensor(matrix, dtype=torch.float32)
    return torch.kron(one, one)


def convolve(maps: Tensor, weights: Tensor, bias: Tensor | None = None, edge: int = 1) -> Tensor:
    """Return the convolution of maps (N, C, H, W) by transformed weights (36, C, O), in channels last.

    `edge` is how many zeros are put around the maps: 1, or 0 for maps that have their edges and get smaller by them.
    Each image on its own: it does not depend on its batch.
    """
    images, channels, height, width = maps.shape
    height, width = height + 2 * edge - 2, width + 2 * edge - 2
    down, across, outputs = -(-height // 4), -(-width // 4), weights.shape[2]
    edges = (0, 0, edge, 4 * across - width + edge, edge, 4 * down - height + edge)
    padded = F.pad(maps.movedim(1, 3), edges).contiguous()
    into, out_of = _both_ways(_INPUT), _both_ways(_OUTPUT)
    made = torch.empty((images, outputs, 4 * down, 4 * across), memory_format=torch.channels_last)
    parts = made.movedim(1, 3).view(images, down, 4, across, 4, outputs)
    step = max(1, BLOCK // (36 * across * max(channels, outputs)))
    for image, result in zip(padded, parts, strict=True):
        for top in range(0, down, step):
            count = min(step, down - top)
            tiles = (into @ _tiles(image[4 * top :], count, across)).view(36, count * across, channels)
            values = (out_of @ torch.bmm(tiles, weights).view(36, -1)).view(4, 4, count, across, outputs)
            result[top : top + count] = values.permute(2, 0, 3, 1, 4)
    if bias is not None:
        parts += bias
    # a view could not be overwritten by what follows, such as a ReLU in place
    return made if made.shape[2:] == (height, width) else made[:, :, :height, :width].clone()


def _tiles(rows: Tensor, down: int, across: int) -> Tensor:
    """Return the overlapping 6 × 6 tiles of rows (H, W, C): (36, down · across · C)."""
    y, x, c = rows.stride()
    view = rows.as_strided((6, 6, down, across, rows.shape[2]), (y, x, 4 * y, 4 * x, c))
    return view.reshape(36, -1)
