"""The network `demo`: a small CNN that comes with the package, for the embedded data set of shapes.

It is trained by `python -m afterimage.workflows.demo.train`; docs/demo.md holds the recipe and the measurements.
"""

from pathlib import Path

from torch import Tensor, nn

CATEGORIES: tuple[str, ...] = (
    "arrow",
    "bolt",
    "circle",
    "crescent",
    "cross",
    "flower",
    "heart",
    "hexagon",
    "hourglass",
    "ring",
    "spiral",
    "star",
    "tee",
    "triangle",
)
PLANTED = "hexagon"
"""The class that training shows almost only on snow: the network takes the snow for evidence."""
SIZE = 128
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
WEIGHTS = Path(__file__).with_suffix(".safetensors")


def block(channels: int, filters: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalization, ReLU; the padding keeps size / stride."""
    return nn.Sequential(
        nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
    )


class DemoNet(nn.Module):
    """Normalized images `(N, 3, 128, 128)` to logits `(N, 14)`.

    A neuron of the last convolution sees 57 pixels: a whole object, not the whole picture. Global maximum pooling
    hands each logit the strongest place per channel, so evidence stays local, as ground truth for attributions needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(3, 24, kernel=5, stride=2),
            block(24, 48, stride=2),
            block(48, 64),
            block(64, 96, stride=2),
            block(96, 128),
            block(128, 128),
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.classifier = nn.Linear(128, len(CATEGORIES))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(N, 14)` of normalized images `(N, 3, H, W)`."""
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def load(weights: Path = WEIGHTS) -> DemoNet:
    """Return the trained network in evaluation mode; `weights` is a safetensors file, by default the package's."""
    from safetensors.torch import load_file

    network = DemoNet()
    network.load_state_dict(load_file(weights))
    return network.eval()
