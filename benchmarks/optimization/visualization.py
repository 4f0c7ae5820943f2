"""Class visualization beside torch-lucent: Fourier coefficients, decorrelated colors, Adam, nothing else."""

from collections.abc import Callable, Iterator

import torch

from benchmarks.agreement import Agreement, excess
from benchmarks.judges import visualized
from benchmarks.optimization import run
from benchmarks.optimization.run import Work
from benchmarks.outcome import Outcome
from benchmarks.row import Device, Row, Venv
from benchmarks.subjects import classifier

LUCENT = Venv("lucent", ("torch-lucent==0.1.8",))
AS_HIGH = Agreement(excess, 0.1, "minus the mean logit: starts are drawn by other generators")


def rows(device: Device, quick: bool) -> Iterator[Row]:
    """ResNet-18, whose layer of logits lucent can name; some classes in one batch."""
    steps, size, count = (2, 224, 2) if quick else (32, 224, 4) if device == "cpu" else (128, 224, 16)
    work = {"network": "resnet18", "layer": "fc", "size": size, "steps": steps, "rate": 0.05, "device": device}
    work["classes"] = list(range(0, 60 * count, 60))
    yield run.row(
        "class-visualization.resnet18",
        f"{count} classes of ResNet-18, {size} px, {steps} steps of Adam on Fourier coefficients",
        device,
        (
            run.configuration("afterimage", "optimization.visualization:visualize", "ours", work=work),
            run.configuration("lucent", "peers.lucent_render:render_classes", "reference", LUCENT, work=work),
        ),
        AS_HIGH,
        items=count,
        repeat=5,
    )


def visualize(work: Work) -> Callable[[], Outcome]:
    """All classes in one batch."""
    from afterimage.methods.class_visualization import ClassVisualization

    network, target = classifier(work["network"]), torch.tensor(work["classes"])
    model = run.network(network, work["device"])
    plain = {"tv": 0.0, "jitter": 0, "rotate": 0.0, "scale": 0.0, "side": work["size"], "rate": work["rate"]}

    def made(steps: int) -> torch.Tensor:
        return ClassVisualization(steps=steps, **plain)(model, target)

    made(1)  # what the first call prepares is no part of the rate
    return lambda: visualized(network, made(work["steps"]), target)
