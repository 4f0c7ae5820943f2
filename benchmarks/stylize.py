"""Fast style transfer: the same weights and pictures in eager torch, stock ONNX Runtime, OpenVINO and our runtime.

Each row compares at the precision it names; the pictures of bfloat16 rows stand beside float32 as well.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from afterimage.ops.tile_convolution import has_tiles
from benchmarks import STORE
from benchmarks.agreement import Agreement, Arrays
from benchmarks.datasets import FEW, end_to_end
from benchmarks.optimization.run import blocked
from benchmarks.outcome import Outcome
from benchmarks.peers import style_examples
from benchmarks.photographs import photographs
from benchmarks.process import cores
from benchmarks.row import ONCE, Configuration, Device, Row, Work
from benchmarks.subjects import pictures

SIZES = ((256, 256), (512, 512), (1080, 1920))
Engine = dict[str, Any]


def _levels_apart(outputs: Arrays, expected: Arrays) -> float:
    """Root of the mean square of the differences, in levels of 255."""
    pairs = ((outputs[name].astype(np.float64), expected[name].astype(np.float64)) for name in expected)
    return 255 * max(float(np.sqrt(np.square(ours - theirs).mean())) for ours, theirs in pairs)


CLOSE = Agreement(_levels_apart, 2.0, "levels of 255, root mean square: what bfloat16 may lose; float32 loses 0.01")


def rows(quick: bool) -> Iterator[Row]:
    """Bare engines by width, size and batch, then files to files."""
    for width in (8,) if quick else (32, 16, 8):
        for height, columns in ((64, 64),) if quick else SIZES:
            for batch in (1, 8):
                yield _row("cpu", width, height, columns, batch)
    if not quick:
        yield _row("cuda", 32, 512, 512, 1)
        yield _row("cuda", 32, 512, 512, 8)
    for width, count in ((8, 16),) if quick else ((32, 1000), (8, 1000)):
        yield _files(width, count)


def _files(width: int, count: int) -> Row:
    params = {"width": width, "count": count}
    return Row(
        f"stylize.files.{width}",
        f"{count} JPEGs to JPEGs by the command line, width {width}, start-up included, beside the engine alone",
        (
            Configuration("afterimage", "benchmarks.stylize:files", "ours", params),
            Configuration("engine alone", "benchmarks.stylize:engine_alone", "unit", params),
        ),
        Agreement(_levels_apart, 0.0, "one configuration makes files"),
        items=count,
        item="image",
        **ONCE,
    )


def _row(device: Device, width: int, height: int, columns: int, batch: int) -> Row:
    work = {"width": width, "height": height, "columns": columns, "batch": batch, "device": device}

    def one(name: str, setup: str, role: Any, **options: Any) -> Configuration:
        return Configuration(name, f"benchmarks.stylize:{setup}", role, {"work": work, **options})

    eager = one("eager", "eager", "reference")
    ours = [one(f"afterimage {precision}", "runtime", "ours", precision=precision) for precision in _precisions(device)]
    return Row(
        f"stylize.{'cuda.' if device == 'cuda' else ''}{width}.{columns}x{height}.{batch}",
        f"style network of width {width}, {batch} × {columns}×{height}",
        (*ours, eager, *(_on_cuda if device == "cuda" else _on_cpu)(one)),
        CLOSE,
        items=batch,
        item="image",
        work=Work(operations=_operations(width) * batch * height * columns),
        device=device,
        repeat=5,
        blocked=blocked(device, False),
    )


def _on_cpu(one: Callable[..., Configuration]) -> list[Configuration]:
    engines = ("onnxruntime", "torch", "openvino", *(["amx"] if has_tiles() else []))
    peers = [one("stock ONNX Runtime", "stock", "peer"), one("OpenVINO fp32", "openvino", "peer", precision="fp32")]
    if "bf16" in _precisions("cpu"):
        peers.append(one("OpenVINO bf16", "openvino", "peer", precision="bf16"))
    return [*peers, *(one(f"afterimage {name}", "runtime", "ours", precision="fp32", engine=name) for name in engines)]


def _on_cuda(one: Callable[..., Configuration]) -> list[Configuration]:
    compiled = one("compiled bf16", "eager", "peer", compile=True, bf16=True)
    return [compiled, one("ONNX Runtime, CUDA", "stock", "peer")]


def _precisions(device: Device) -> tuple[str, ...]:
    return ("fp32",) if blocked(device, True) else ("fp32", "bf16")


def _operations(width: int) -> float:
    """Multiplications and additions a pixel, of the network as it is published."""
    return 2 * (2 * 81 * 3 * width + 9 * 15 * width**2)


def eager(work: Engine, compile: bool = False, bf16: bool = False) -> Callable[[], Tensor]:
    """pytorch/examples' network in torch, as its script runs it; or compiled, in channels last and bfloat16."""
    device = work["device"]
    net: Any = style_examples.lively(work["width"]).to(device)
    levels = 255 * _images(work).to(device)
    if compile:
        net, levels = torch.compile(net.to(memory_format=torch.channels_last)), _last(levels)

    def call() -> Tensor:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            painted: Tensor = (net(levels).float() / 255).clamp(0, 1)
            return painted

    return call


def stock(work: Engine) -> Callable[[], NDArray[np.float32]]:
    """ONNX Runtime on the file that torch.onnx.export makes of that network, with a thread per core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    provider = "CUDAExecutionProvider" if work["device"] == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(_exported(work["width"]), options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"expected ONNX Runtime's {provider}, it took {session.get_providers()[0]}")
    levels = (255 * _images(work)).numpy()
    return lambda: (session.run(None, {"levels": levels})[0] / 255).clip(0, 1)


def openvino(work: Engine, precision: str) -> Callable[[], NDArray[np.float32]]:
    """OpenVINO on the same file, asked for latency and a precision, with a thread per core."""
    import openvino

    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": cores(),
    }
    compiled = openvino.Core().compile_model(_exported(work["width"]), "CPU", hints)
    levels = (255 * _images(work)).numpy()
    return lambda: (compiled(levels)[0] / 255).clip(0, 1)


def runtime(work: Engine, precision: str, engine: str = "auto") -> Callable[[], Tensor]:
    """Our runtime on our own export of the same weights, with the engine that it chooses or is told."""
    from afterimage.models.style.runtime import StyleRuntime

    painter = StyleRuntime(
        _ours(work["width"]), engine=engine, device=work["device"], precision=precision, threads=cores()
    )
    images = _images(work).to(work["device"])
    print(f"engine: {painter.engine}", file=sys.stderr)
    return lambda: painter(images)


def _images(work: Engine) -> Tensor:
    """Return pictures (N, 3, H, W) of the size asked for: crops of one, so that making them takes no time."""
    large = pictures(1, 2048)
    return torch.cat([large[:, :, n : n + work["height"], n : n + work["columns"]] for n in range(work["batch"])])


def _last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _exported(width: int) -> Path:
    """Return the stock file of that width, made once."""
    file = STORE / "data" / f"style-{width}-{torch.__version__}.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        style_examples.exported(style_examples.lively(width), unfinished)
        unfinished.rename(file)
    return file


def _ours(width: int) -> Path:
    """Return our own export of the same weights, made once."""
    from afterimage.models.style import load_style_net
    from afterimage.models.style.export import export_style_net

    file = STORE / "data" / f"style-{width}-ours.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent) as folder:
            torch.save(style_examples.lively(width).state_dict(), Path(folder, "net.pth"))
            export_style_net(load_style_net(Path(folder, "net.pth")), Path(folder, "net.onnx"))
            Path(folder, "net.onnx").rename(file)
    return file


def files(width: int, count: int) -> Callable[[], Outcome]:
    """``afterimage stylize``, as a user calls it, in float32."""
    program = [Path(sys.executable).with_name("afterimage"), "stylize", photographs(count)]
    options = ["--net", _ours(width), "--precision", "fp32", "--keep", "none", "--json"]
    return end_to_end(count, lambda out: [*program, out, *options], ["--shard-size", FEW // 2], _sizes)


def _sizes(out: Path) -> NDArray[np.float32]:
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]

    tables = [parquet.read_table(file) for file in sorted((out / "stylize" / "shards").glob("*.parquet"))]
    return np.array([row["file_height"] for table in tables for row in table.to_pylist()], np.float32)


def engine_alone(width: int, count: int) -> Callable[[], dict[str, NDArray[np.float32]]]:
    """The same network on the same pictures, decoded already: a thread per core, each with a runtime of its own."""
    from PIL import Image

    from afterimage.models.style.runtime import StyleRuntime

    names = sorted(photographs(count).rglob("*.jpg"))
    images = [np.asarray(Image.open(name).convert("RGB")) for name in names]
    painters = [StyleRuntime(_ours(width), threads=1) for _ in range(cores())]
    pool = ThreadPoolExecutor(cores())

    def paint(number: int) -> list[int]:
        return [len(painters[number](image)) for image in images[number :: cores()]]

    def call() -> dict[str, NDArray[np.float32]]:
        heights = np.empty(count, np.float32)
        for number, found in enumerate(pool.map(paint, range(cores()))):
            heights[number :: cores()] = found
        return {"heatmaps": heights}

    return call
