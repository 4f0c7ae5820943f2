"""Style transfer and texture as the usual tutorial has them: losses are modules in a Sequential, plain eager torch.

The form is that of Jacq, Neural transfer using PyTorch (docs.pytorch.org/tutorials, advanced/neural_style_tutorial):
Gram matrices by bmm, a mean squared error each, weights frozen, backward(), one of torch's optimizers, pixels clamped.
Layers are those of Gatys et al. 2016, one picture at a time; each error is divided by its target's mean square, so that
their weighted sum is the loss of `benchmarks.judges.style_losses`.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from benchmarks.judges import painted
from benchmarks.outcome import Outcome
from benchmarks.subjects import CONTENT_LAYER, MEAN, STD, STYLE_LAYERS, noise, pictures, vgg19

Work = dict[str, Any]
"""What is to be done: `size`, `contents` (how many), `texture` (from noise, no content), `optimizer`, `rate`,
`evaluations`, `style_weight` and `device`."""


class Normalization(nn.Module):
    """The first module of the Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class ContentLoss(nn.Module):
    """Hands on what it gets and remembers how far that is from the target."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target.detach()
        self.scale = 1 / self.target.square().mean()
        self.loss = torch.zeros(())

    def forward(self, features: Tensor) -> Tensor:
        self.loss = F.mse_loss(features, self.target) * self.scale
        return features


class StyleLoss(nn.Module):
    """The same for the Gram matrix."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = gram_matrix(target).detach()
        self.scale = 1 / self.target.square().mean()
        self.loss = torch.zeros(())

    def forward(self, features: Tensor) -> Tensor:
        self.loss = F.mse_loss(gram_matrix(features), self.target) * self.scale
        return features


def gram_matrix(features: Tensor) -> Tensor:
    """Return (N, C, C), over positions."""
    n, c, h, w = features.size()
    flat = features.view(n, c, h * w)
    return torch.bmm(flat, flat.transpose(1, 2)).div(h * w)


def model_and_losses(
    network: nn.Sequential, style: Tensor, content: Tensor | None, layers: tuple[str, ...] = STYLE_LAYERS
) -> tuple[nn.Sequential, list[StyleLoss], list[ContentLoss]]:
    """Return the network with normalization and losses put in, and the losses."""
    model = nn.Sequential(Normalization()).to(style.device)
    styles, contents = [], []
    for name, layer in network.named_children():
        model.append(nn.ReLU(inplace=False) if isinstance(layer, nn.ReLU) else layer)
        with torch.no_grad():
            if name in layers:
                styles.append(StyleLoss(model(style)))
                model.append(styles[-1])
            if name == CONTENT_LAYER and content is not None:
                contents.append(ContentLoss(model(content)))
                model.append(contents[-1])
    return model, styles, contents


def run(network: nn.Sequential, style: Tensor, content: Tensor | None, start: Tensor, work: Work, bf16: bool) -> Tensor:
    """Return the picture (1, 3, H, W) after so many evaluations."""
    image = start.clone().requires_grad_()
    with _precision(bf16, work):
        model, styles, contents = model_and_losses(network, style, content)
    optimizer = optim.LBFGS([image]) if work["optimizer"] == "lbfgs" else optim.Adam([image], lr=work["rate"])
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        with torch.no_grad():
            image.clamp_(0, 1)
        optimizer.zero_grad()
        with _precision(bf16, work):
            model(image)
        loss = work["style_weight"] * sum(one.loss for one in styles) / len(styles) + sum(one.loss for one in contents)
        loss.backward()
        evaluations += 1
        return loss

    while evaluations < work["evaluations"]:
        if work["optimizer"] == "lbfgs":  # it evaluates some twenty times a step, which must not go on beyond the end
            optimizer.param_groups[0].update(max_iter=20, max_eval=min(25, work["evaluations"] - evaluations))
        optimizer.step(closure)
    with torch.no_grad():
        return image.clamp_(0, 1)


def _precision(bf16: bool, work: Work) -> Any:
    return torch.autocast(work["device"], torch.bfloat16) if bf16 else nullcontext()


def tutorial(work: Work, channels_last: bool = False, bf16: bool = False) -> Callable[[], Outcome]:
    """The pictures one after the other, as the tutorial does; also in channels last, or under autocast."""
    network, style, contents, starts = inputs(work)
    if channels_last:
        network, style = network.to(memory_format=torch.channels_last), _last(style)
        contents, starts = _last(contents), _last(starts)

    def all_pictures(work: Work) -> Tensor:
        made = []
        for content, start in zip(contents.split(1), starts.split(1), strict=True):
            made.append(run(network, style, None if work["texture"] else content, start, work, bf16))
        return torch.cat(made)

    all_pictures({**work, "evaluations": 1})  # what the first call prepares is no part of the rate

    def call() -> Outcome:
        kept = None if work["texture"] else contents
        return painted(all_pictures(work), style, kept, work["style_weight"], work["evaluations"])

    return call


def inputs(work: Work) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """Return frozen network, style (1, 3, H, W), contents and starts (N, 3, H, W)."""
    count, size, device = work["contents"], work["size"], work["device"]
    contents = pictures(count, size)
    starts = noise(count, size) if work["texture"] else contents
    style = pictures(1, size, first=100)
    return vgg19().requires_grad_(False).to(device), style.to(device), contents.to(device), starts.to(device)


def _last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
