"""Objectives: one value per image, `(n,)`, from what an evaluation has seen; they add up, and scale.

    channel("layer3", 20) - 1e-3 * total_variation()

A target that belongs to each image is given for all images of a run, and read by `seen.rows`: images that have ended
leave the evaluation. Values are float32 at least, whatever the network computes in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..errors import UsageError
from ..models.frozen import frozen
from ..models.layers import OUTPUT, Neuron, activations
from ..ops.gram import Normalize


@dataclass(frozen=True)
class Seen:
    """What one evaluation knows of n images: them, what layers gave for them (transformed), their places in the run."""

    images: Tensor
    """`(n, 3, H, W)`, as they are painted, before transforms."""
    activations: Mapping[str, Tensor]
    rows: Tensor
    """`(n,)` int64, where the images are."""

    def __getitem__(self, layer: str) -> Tensor:
        return self.activations[layer]

    @property
    def logits(self) -> Tensor:
        """The network's output `(n, classes)`, in float32 at least."""
        found = self.activations[OUTPUT]
        if found.ndim != 2:
            raise UsageError(f"the model has to return logits (N, classes), got {tuple(found.shape)}; take a layer")
        return _wide(found)


@dataclass(frozen=True)
class Objective:
    """A function of what was seen, and the layers that it reads; `OUTPUT` is the network's own output."""

    value: Callable[[Seen], Tensor]
    layers: frozenset[str] = frozenset()
    name: str = ""

    def __call__(self, seen: Seen) -> Tensor:
        """Return one value per image, `(n,)`."""
        return self.value(seen)

    def __add__(self, other: "Objective | float") -> "Objective":
        if not isinstance(other, Objective):
            return self + Objective(lambda seen: _constant(seen, other), name=f"{other:g}") if other else self
        name = f"{self.name} + {other.name}"
        return Objective(lambda seen: self(seen) + other(seen), self.layers | other.layers, name)

    def __mul__(self, factor: "float | Tensor") -> "Objective":
        """Scale by a number, or by one for each image of the run, `(N,)`."""
        if isinstance(factor, Tensor):
            return Objective(lambda seen: _rows(factor, seen) * self(seen), self.layers, f"weights · ({self.name})")
        return Objective(lambda seen: factor * self(seen), self.layers, f"{factor:g} · ({self.name})")

    def __neg__(self) -> "Objective":
        return -1.0 * self

    def __sub__(self, other: "Objective | float") -> "Objective":
        return self + -other

    __radd__ = __add__
    __rmul__ = __mul__


@torch.no_grad()
def evaluated(model: nn.Module, objective: Objective, images: Tensor) -> Tensor:
    """Return an objective's values `(N,)` of all images of a run, without transforms; one after the other."""
    with frozen(model):
        values = [
            objective(Seen(one, activations(model, one, objective.layers), torch.tensor([row])))
            for row, one in enumerate(images.split(1))
            if len(one)
        ]
    return torch.cat(values) if values else _wide(images.new_empty(0))


def _constant(seen: Seen, value: float) -> Tensor:
    return seen.images.new_full((len(seen.images),), value)


def _rows(values: Tensor, seen: Seen) -> Tensor:
    """Return what belongs to the images that were seen, of what belongs to all images of the run."""
    return values[seen.rows.to(values.device)].to(seen.images.device)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def objective(*layers: str, name: str = "") -> Callable[[Callable[[Seen], Tensor]], Objective]:
    """Make a function of what was seen an objective that reads these layers."""
    return lambda value: Objective(value, frozenset(layers), name or value.__name__)


def logit(target: Tensor) -> Objective:
    """The unnormalized score of each image's class; `target` is `(N,)` int64, for all images of the run."""
    return objective(OUTPUT, name="logit")(lambda seen: _of_class(seen.logits, seen, target))


def probability(target: Tensor) -> Objective:
    """The log-probability of each image's class, whose gradient does not vanish; `target` as in `logit`."""
    return objective(OUTPUT, name="log probability")(lambda seen: _of_class(seen.logits.log_softmax(1), seen, target))


def lead(target: Tensor) -> Objective:
    """By how much the logit of each image's class is above all others; `target` as in `logit`."""

    def above(seen: Seen) -> Tensor:
        own = _rows(target, seen)[:, None]
        return _of_class(seen.logits, seen, target) - seen.logits.scatter(1, own, -torch.inf).amax(1)

    return objective(OUTPUT, name="lead")(above)


def _of_class(scores: Tensor, seen: Seen, target: Tensor) -> Tensor:
    return scores.gather(1, _rows(target, seen)[:, None]).squeeze(1)


def neuron(of: Neuron) -> Objective:
    """What a neuron gives, a channel's mean over positions, or a layer's strongest channel."""
    return objective(of.layer, name=str(of))(lambda seen: _wide(of.read(seen[of.layer])))


def channel(layer: str, index: int) -> Objective:
    """A channel's mean over positions."""
    return neuron(Neuron(layer, index))


def layer(name: str) -> Objective:
    """The mean of each image's strongest channel in a layer."""
    return neuron(Neuron(name))


def amplify(layer: str) -> Objective:
    """½ mean a² over a layer's activations: its gradient at the layer is the activation itself (over their number)."""
    return objective(layer, name=f"amplify {layer}")(lambda seen: _wide(seen[layer]).square().flatten(1).mean(1) / 2)


def guided(layer: str, guide: Tensor) -> Objective:
    """Mean over positions of the product with the guide's best matching position; `guide` is `(1, C, h, w)`."""
    bank = guide.detach().flatten(2).squeeze(0)

    def product(seen: Seen) -> Tensor:
        maps = _wide(seen[layer]).flatten(2)
        best = torch.matmul(maps.detach().mT, bank.to(maps)).argmax(2)  # which position of the guide, (n, positions)
        return (maps * bank.to(maps)[:, best].movedim(0, 1)).sum(1).mean(1)

    return objective(layer, name=f"guided {layer}")(product)


def distance(layer: str, target: Tensor, relative: bool = True) -> Objective:
    """‖Φ − Φ₀‖² / ‖Φ₀‖² at a layer; `target` is Φ₀ of all images of the run, `(N, …)`, or one for all `(1, …)`.

    Where Φ₀ is 0 everywhere, or without `relative`, it is not divided.
    """
    wide = _wide(target.detach())
    scale = _inverse_square(wide) if relative else wide.new_ones(len(wide))

    def squares(seen: Seen) -> Tensor:
        own = (wide, scale) if len(wide) == 1 else (_rows(wide, seen), _rows(scale, seen))
        return (_wide(seen[layer]) - own[0]).flatten(1).square().sum(1) * own[1]

    return objective(layer, name=f"distance at {layer}")(squares)


def _inverse_square(targets: Tensor) -> Tensor:
    """Return 1 / ‖target‖² of each, 1 for those that are 0 everywhere."""
    size = targets.flatten(1).square().sum(1)
    return torch.where(size > 0, size, 1).reciprocal()


def style(
    layer: str,
    target: Tensor,
    center: bool = False,
    normalize: Normalize = "positions",
    mask: Tensor | None = None,
    relative: bool = False,
) -> Objective:
    """‖G − Ĝ‖² / (4 C²), G the Gram matrix of a layer's C channels; `target` is Ĝ `(C, C)`, or `(N, C, C)` of the run.

    With Gram matrices over positions this is E_l of Gatys et al. 2015 for pictures of equal size, and serves as well
    where sizes differ. `mask` `(N or 1, 1, H, W)` weighs positions of the painted image, averaged to the layer's. With
    `relative` it is ‖G − Ĝ‖² / ‖Ĝ‖².
    """
    wide = _wide(target.detach())
    scale = _inverse_square(wide if wide.ndim == 3 else wide[None])

    def squares(seen: Seen) -> Tensor:
        features = seen[layer]
        gram = wide if wide.ndim == 2 else _rows(wide, seen)
        if mask is not None:
            features = masked(features, mask if len(mask) == 1 else _rows(mask, seen))
        found = ops.style_loss(features, gram.to(features.device), center, normalize)
        if relative:
            return found * (scale if len(scale) == 1 else _rows(scale, seen)).to(features.device)
        return found / (4 * features.shape[1] ** 2)

    return objective(layer, name=f"style at {layer}")(squares)


def masked(features: Tensor, mask: Tensor) -> Tensor:
    """Weigh features `(n, C, h, w)` so that their Gram matrix over positions is a mean over a mask `(n, 1, H, W)`."""
    share = F.interpolate(_wide(mask), features.shape[2:], mode="area").to(features.device)
    return features * (share / share.mean((2, 3), keepdim=True).clamp_min(1e-6)).sqrt().to(features.dtype)


def beyond(low: float = 0.0, high: float = 1.0) -> Objective:
    """Σ of the squares of how far pixels lie outside a range: draws those back that a network paints there."""

    def squares(seen: Seen) -> Tensor:
        images = _wide(seen.images)
        return (images - images.clamp(low, high)).square().flatten(1).sum(1)

    return objective(name=f"beyond [{low:g}, {high:g}]")(squares)


def l2(about: float = 0.0) -> Objective:
    """‖x − about‖² of the image's pixels."""
    return objective(name="‖x‖²")(lambda seen: (_wide(seen.images) - about).square().flatten(1).sum(1))


def alpha_norm(alpha: float, about: float = 0.5) -> Objective:
    """Σ |x − about|^α: keeps pixels in range (Mahendran and Vedaldi 2015 take α = 6 about the mean)."""
    return objective(name=f"‖x‖_{alpha:g}")(
        lambda seen: (_wide(seen.images) - about).abs().pow(alpha).flatten(1).sum(1)
    )


def total_variation(beta: float = 2.0, eps: float = 0.0) -> Objective:
    """Total variation to the power of β, summed over channels and pixels; see `afterimage.ops.total_variation`."""
    return objective(name=f"TV^{beta:g}")(lambda seen: ops.total_variation(seen.images, beta, eps))
