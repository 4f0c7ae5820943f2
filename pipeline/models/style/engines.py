"""What computes a style network: matrix tiles, torch, ONNX Runtime or OpenVINO, each behind the same call.

An engine takes images `(N, 3, H, W)` float32 in [0, 1], strength `(N,)` and shares `(N, S)`; it returns them painted.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Protocol, Unpack

import torch
from torch import Tensor

from ...errors import UsageError
from ...ops.tile_convolution import has_tiles
from .amx import Tiled
from .contract import style_model
from .graph import INPUTS, OUTPUT
from .net import StyleNet
from .quick import Quick
from .tiles import Picture, Settings, paint, picture_of, rows_for

if TYPE_CHECKING:
    import onnxruntime

EngineName = Literal["amx", "onnxruntime", "openvino", "torch"]
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
CACHED = 2**24
"""Bytes of a strip's largest map: it stays in the cache, and the heap has room for it from one strip to the next."""
WHOLE = 2**30
"""Rows of a strip that is the picture: a GPU works on all of it at once."""


class Engine(Protocol):
    """Paints images `(N, 3, H, W)` by strength `(N,)` and shares `(N, S)`, all float32 on the engine's device."""

    def __call__(self, images: Tensor, strength: Tensor, shares: Tensor) -> Tensor:
        """Return images painted, float32 of the same shape on the same device."""


class AmxEngine:
    """The network on a processor's matrix tiles, each image on its own.

    Factors of "fp32" have 16 bits, so that pictures are off by some tens of times what float32 is.
    """

    def __init__(self, net: StyleNet, device: Device, precision: Precision, threads: int) -> None:
        if device != "cpu":
            raise UsageError(f"engine 'amx' computes on the CPU, not on {device}: use 'torch' or 'onnxruntime'")
        if not has_tiles():
            raise UsageError("engine 'amx': this processor has no matrix tiles that the kernels can use; use 'torch'")
        self.tiled, self.threads = Tiled(net, precision == "fp32"), threads
        self.lock = Lock()  # the memory that it works in is one

    def __call__(self, images: Tensor, strength: Tensor, shares: Tensor) -> Tensor:
        """Return images painted."""
        painted = torch.empty_like(images, memory_format=torch.contiguous_format)
        with torch.inference_mode(), self.lock, threads(self.threads):
            for image, result, power, share in zip(images, painted, strength, shares, strict=True):
                torch.lerp(image, self.tiled.painted(image, share), power, out=result)
        return painted


class TorchEngine:
    """The network by strips that fit the cache, each image on its own; "bf16" is autocast."""

    def __init__(self, net: StyleNet, device: Device, precision: Precision, threads: int) -> None:
        _need_cuda(device)
        self.quick = Quick(net, device)
        self.device, self.precision, self.threads = device, precision, threads

    def __call__(self, images: Tensor, strength: Tensor, shares: Tensor) -> Tensor:
        """Return images painted."""
        painted = torch.empty_like(images, memory_format=torch.contiguous_format)
        for image, result, power, share in zip(images, painted, strength, shares, strict=True):
            self.paint(picture_of(image, result), float(power), share)
        return painted

    def paint(self, picture: Picture, strength: float, shares: Tensor, **settings: Unpack[Settings]) -> None:
        """Paint one picture, read and written in float32 on the engine's device; settings are `tiles.paint`'s."""
        if "rows" not in settings:
            settings["rows"] = rows_for(self.quick, picture, CACHED) if self.device == "cpu" else WHOLE
        cast = torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")
        with torch.inference_mode(), threads(self.threads), cast:
            paint(self.quick, picture, strength, shares, **settings)


class OnnxRuntimeEngine:
    """The exported graph in ONNX Runtime, on a CPU or by its CUDA provider; float32."""

    def __init__(self, net: StyleNet, device: Device, precision: Precision, threads: int) -> None:
        _need("onnxruntime", "pip install onnxruntime")
        if precision != "fp32":
            raise UsageError(f"engine 'onnxruntime' computes in fp32, not {precision}: use 'torch' or 'openvino'")
        import onnxruntime

        if device == "cuda":
            _need_cuda(device)
            onnxruntime.preload_dlls()  # those that torch brings
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        if provider not in onnxruntime.get_available_providers():
            raise UsageError(f"onnxruntime {onnxruntime.__version__} has no {provider}: install onnxruntime-gpu")
        self.session = session(style_model(net).SerializeToString(), threads, provider)
        if self.session.get_providers()[0] != provider:  # it falls back to the CPU without an error
            raise UsageError(
                f"onnxruntime cannot use {provider} here: see that CUDA and cuDNN fit it, or use device cpu"
            )
        self.device, self.places = device, f"{device}:0"
        self.run = onnxruntime.RunOptions()
        self.run.add_run_config_entry("memory.enable_memory_arena_shrinkage", self.places)

    def __call__(self, images: Tensor, strength: Tensor, shares: Tensor) -> Tensor:
        """Return images painted."""
        painted = torch.empty_like(images, memory_format=torch.contiguous_format)
        binding = self.session.io_binding()
        given = [tensor.contiguous() for tensor in (images, strength, shares)]
        for name, tensor in zip(INPUTS, given, strict=True):
            binding.bind_input(name, self.device, 0, "float32", tuple(tensor.shape), tensor.data_ptr())
        binding.bind_output(OUTPUT, self.device, 0, "float32", tuple(painted.shape), painted.data_ptr())
        if self.device == "cuda":
            torch.cuda.current_stream().synchronize()  # the session has a stream of its own
        self.session.run_with_iobinding(binding, self.run)
        binding.synchronize_outputs()
        return painted


def session(model: bytes, threads: int, provider: str = "CPUExecutionProvider") -> "onnxruntime.InferenceSession":
    """Return an ONNX Runtime session of as many threads, which sleep while they wait."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # waiting threads would take the time of others, such as a second worker on the machine
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=[provider])


class OpenVinoEngine:
    """The exported graph in OpenVINO on a CPU; "bf16" where the processor has it."""

    def __init__(self, net: StyleNet, device: Device, precision: Precision, threads: int) -> None:
        _need("openvino", "pip install 'afterimage[openvino]'")
        if device != "cpu":
            raise UsageError(f"engine 'openvino' computes on the CPU, not on {device}: use 'torch' or 'onnxruntime'")
        import openvino

        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError("precision bf16: this processor has no products of bfloat16; use fp32, or engine 'torch'")
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        model = core.read_model(style_model(net).SerializeToString(), b"")
        self.compiled = core.compile_model(model, "CPU", settings)

    def __call__(self, images: Tensor, strength: Tensor, shares: Tensor) -> Tensor:
        """Return images painted."""
        given = [tensor.contiguous().numpy() for tensor in (images, strength, shares)]
        return torch.from_numpy(self.compiled(dict(zip(INPUTS, given, strict=True)))[OUTPUT])


ENGINES: dict[EngineName, Callable[[StyleNet, Device, Precision, int], Engine]] = {
    "amx": AmxEngine,
    "onnxruntime": OnnxRuntimeEngine,
    "openvino": OpenVinoEngine,
    "torch": TorchEngine,
}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with as many threads of torch; afterwards as before."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _need(package: str, command: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"engine {package!r} is not installed: {command}")


def _need_cuda(device: Device) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda': there is no NVIDIA GPU that torch can use; use device 'cpu'")
