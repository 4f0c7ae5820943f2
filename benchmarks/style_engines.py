"""Style networks by every engine beside a stock export in ONNX Runtime, in turns: python -m benchmarks.style_engines.

Stock is what `torch.onnx.export` makes of the network, in a session with default options but for the threads. Figures
are medians in milliseconds for one picture; the gain is the median of the ratios within a round, which other load
disturbs least; the error is the largest distance to the eager network, in levels of 255.
"""

import argparse
import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import product

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from afterimage.errors import UsageError
from afterimage.models.style import StyleNet
from afterimage.models.style.engines import ENGINES

Paint = Callable[[], Tensor]


class Stock(nn.Module):
    """The network with every input by place."""

    def __init__(self, net: StyleNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, strength: Tensor, shares: Tensor) -> Tensor:
        return self.net(images, shares, strength)


def network(width: int) -> StyleNet:
    """Return an untrained network whose pictures have some contrast."""
    torch.manual_seed(0)
    net = StyleNet(width).eval().requires_grad_(False)
    for name, value in net.named_parameters():
        if ".in" in f".{name}":
            value.normal_(1.0 if name.endswith("weight") else 0.0, 0.5)
    net.deconv3.conv2d.weight.mul_(100)
    net.deconv3.conv2d.bias.fill_(100)
    return net


def stock(net: StyleNet) -> bytes:
    """Return the network's stock export."""
    example = (torch.rand(2, 3, 32, 48), torch.rand(2), torch.rand(2, 1))
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 2: free, 3: free}, {0: free}, {0: free})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Stock(net).eval(), example, opset_version=18, dynamic_shapes=shapes, dynamo=True, verbose=False
        )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    return file.getvalue()


def engines(net: StyleNet, exported: bytes, side: int, threads: int) -> dict[str, Paint]:
    """Return what paints one picture, by name; the eager network comes first."""
    given = (torch.rand(1, 3, side, side), torch.ones(1), torch.ones(1, 1))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    inputs = dict(zip(names, (one.numpy() for one in given), strict=False))  # one style needs no shares: none remain
    found: dict[str, Paint] = {
        "eager": lambda: net(given[0], given[2], given[1]),
        "stock": lambda: torch.from_numpy(np.asarray(session.run(None, inputs)[0])),
    }
    for name, make in ENGINES.items():
        try:
            engine = make(net, "cpu", "fp32", threads)
        except UsageError as absent:
            print(absent)
            continue
        found[name] = lambda engine=engine: engine(*given)  # type: ignore[misc]
    return found


def main() -> None:
    """Measure, and print a line for each size, width, number of threads and engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("threads", [1, 2]), ("sides", [256, 512]), ("widths", [8, 16, 32])):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    for width in asked.widths:
        net = network(width)
        exported = stock(net)
        for side, threads in product(asked.sides, asked.threads):
            torch.set_num_threads(threads)
            measured(engines(net, exported, side, threads), f"width {width}, {side}², {threads} threads", asked.rounds)


def measured(found: dict[str, Paint], title: str, rounds: int) -> None:
    """Time engines in turns, and print a line for each."""
    painted = {name: paint() for name, paint in found.items()}
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, paint in found.items():
            start = time.perf_counter()
            paint()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, median in medians.items():
        error = 255 * float((painted[name] - painted["eager"]).abs().max())
        gain = statistics.median(a / b for a, b in zip(times["stock"], times[name], strict=True))
        least = 1000 * min(times[name])
        told = f"{1000 * median:8.1f} ms, least {least:8.1f}, {gain:5.2f} × stock, error {error:.4f}"
        print(f"{title}: {name:12}{told}", flush=True)


if __name__ == "__main__":
    main()
