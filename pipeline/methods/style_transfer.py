"""Style transfer: what one picture shows, painted as another is.

    L = α ‖F(x) − F(content)‖² / ‖F(content)‖² + β mean over l of ‖G_l(x) − Ĝ_l‖² / ‖Ĝ_l‖² + γ TV^b(x) / pixels

F is a layer's activations, G_l a layer's Gram matrix over positions, Ĝ_l the style's, or the weighted mean of several
styles'.

Gatys, Ecker, Bethge, Image Style Transfer Using Convolutional Neural Networks, CVPR 2016 (doi:10.1109/CVPR.2016.265);
masks, sizes: Gatys et al., Controlling Perceptual Factors in Neural Style Transfer, CVPR 2017 (arXiv:1611.07865). Their
guided Gram matrices: a mask weighs the positions that G_l and Ĝ_l are means over, one pair for each region.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import images as algebra
from ..errors import UsageError
from ..images import LBFGS, Adam, Objective, Result
from ..images.colors import luminance, matched, with_luminance
from ..images.grams import Grams, check_maps, grams
from ..images.memory import batch_for, check_pass
from ..images.objectives import evaluated
from ..images.perceptual import Weights, alike, mean, size_of, weighted
from ..images.projections import clip
from ..images.scales import Size, coarse_to_fine, pyramid, resized
from ..images.seeds import noise, seeds_for
from ..models.frozen import frozen
from ..models.gradients import check_images
from ..models.layers import activations, names_of, resolve
from ..models.stages import content_layer, style_layers
from ..painting import painted
from ..registry import Curve, Diverged, Image, Progress, Values, option, register

RATE = 0.02
"""Adam's."""

Terms = tuple[Objective, Objective]
"""Content and style loss."""


class Transferred(NamedTuple):
    """What there is to say of each picture."""

    image: Image
    loss: Values
    losses: Curve
    """At each step; of a smaller picture before the last size."""
    steps: Values
    diverged: Diverged
    content_loss: Values
    """Of the picture as it is: what α weighs."""
    style_loss: Values
    """What β weighs."""


class _Plan(NamedTuple):
    """What a call takes, checked and brought to the content's type: N contents, M styles, a share of each for each."""

    content: Tensor
    styles: list[Tensor]
    shares: Tensor
    mask: Tensor | None
    style_masks: list[Tensor] | None
    layers: list[str]
    content_layer: str
    sizes: list[Size]


@register(network="vgg19", network_flag="loss-net", fit="inside", size=512)
class StyleTransfer:
    """What one picture shows, painted as another is."""

    # The paper puts average pooling in the place of the network's maximum pooling; here networks stay as they come.

    content_weight: float = option(1.0, "α, of the distance from the content at one layer")
    style_weight: float = option(30.0, "β, of the distance from the styles' Gram matrices")
    tv: float = option(10.0, "γ, of the total variation a pixel")
    tv_beta: float = option(2.0, "power of the total variation")
    layers: str | None = option(None, "layers of the style, a,b,c; default: the first of each resolution, five at most")
    content_layer: str | None = option(None, "layer of the content; default: the second of the last resolution but one")
    style_scale: float = option(1.0, "size of the styles' features: the side of a style over that of the content")
    keep_color: Literal["no", "match", "luminance"] = option(
        "no", "keep the content's colors: styles are given its mean and covariance, or only luminance is transferred"
    )
    normalize: Literal["target", "paper"] = option(
        "target", "distances over the target's own size, or the paper's ½ ‖F − P‖² and E_l, which want other weights"
    )
    start: Literal["content", "noise"] = option("content", "start at the content, or at noise from the item's seed")
    optimizer: Literal["lbfgs", "adam"] = option("lbfgs", "L-BFGS as in the paper, or Adam")
    steps: int = option(300, "steps in all, as many at each size")
    rate: float | None = option(None, "length of a step; default: 1 for lbfgs, 0.02 for adam")
    scales: int = option(2, "sizes from coarse to fine; those with a side below 32 pixels are left out")
    factor: float = option(2.0, "each size over the one before")

    def __post_init__(self) -> None:
        """Refuse, with UsageError, numbers that are none of their options'."""
        for name in ("content_weight", "style_weight", "tv"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name}: expected a finite number of 0 or above, got {getattr(self, name)}")
        for name, least in (("style_scale", 0), ("factor", 1), ("rate", 0)):
            if (value := getattr(self, name)) is not None and not least < value < math.inf:
                raise UsageError(f"{name}: expected a finite number above {least}, got {value}")
        if self.tv_beta < 1:
            raise UsageError(f"tv_beta: expected 1 or above, got {self.tv_beta}")
        if self.scales < 1 or self.steps < self.scales:
            raise UsageError(f"expected steps ≥ scales ≥ 1, got {self.steps} steps and {self.scales} scales")
        if not self.content_weight + self.style_weight + self.tv:
            raise UsageError("expected a weight above 0, got none: content_weight, style_weight and tv are all 0")

    def __call__(
        self,
        model: nn.Module,
        content: Tensor,
        style: Sequence[Tensor],
        weights: Sequence[float] | Tensor | None = None,
        mask: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
        style_mask: Sequence[Tensor] | None = None,
    ) -> Image:
        """Return pictures `(N, 3, H, W)` of contents `(N, 3, H, W)` in the style of pictures `(1, 3, h, w)`.

        `weights` are shares of the M styles, `(M,)`, or those of each content, `(N, M)`: with
        `content.repeat_interleave(M, 0)` and `torch.eye(M).repeat(N, 1)` each content is painted in each style. `mask`
        `(N or 1, 1, H, W)` in [0, 1] says how much a place counts for the style; where it is 0, the content stays.
        `style_mask` has one `(1, 1, h, w)` for each style, of its size: how much a place counts there. With R channels
        in both, each region of the content takes the style of its own region.
        """
        return self.details(model, content, style, weights, mask, seeds, progress, style_mask).image

    def check(
        self,
        model: nn.Module,
        content: Tensor,
        style: Sequence[Tensor],
        weights: Sequence[float] | Tensor | None = None,
        mask: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
        style_mask: Sequence[Tensor] | None = None,
    ) -> None:
        """Refuse, with UsageError, what does not fit, memory included, without working; takes what the call takes."""
        self._plan(model, content, style, weights, mask, seeds, style_mask)

    def details(
        self,
        model: nn.Module,
        content: Tensor,
        style: Sequence[Tensor],
        weights: Sequence[float] | Tensor | None = None,
        mask: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
        style_mask: Sequence[Tensor] | None = None,
    ) -> Transferred:
        """Return the pictures with their losses; takes what the call takes."""
        with torch.inference_mode(False):
            plan = self._plan(model, content, style, weights, mask, seeds, style_mask)
            result, terms = self._painted(model, plan, seeds_for(len(content), seeds), progress)
            losses = [evaluated(model, term, result.images) for term in terms]
        if self.keep_color == "luminance":
            result = result._replace(images=with_luminance(plan.content, result.images[:, :1]))
        return Transferred(*painted(result), *losses)

    def _painted(self, model: nn.Module, plan: _Plan, seeds: Tensor, progress: Progress | None) -> tuple[Result, Terms]:
        """Return what came of the contents, and content and style loss at the last size."""
        grey, adam = self.keep_color == "luminance", self.optimizer == "adam"
        shown, count = _grey(plan.content) if grey else plan.content, len(plan.content)
        terms: list[Terms] = []
        steps = _divided(self.steps, len(plan.sizes))

        def paint(start: Tensor, skip: Tensor | None) -> Result:
            size, number = (start.shape[2], start.shape[3]), len(terms)
            here = resized(shown, size)
            mask = None if plan.mask is None else F.interpolate(plan.mask, size, mode="area")
            terms.append(self._terms(model, here, plan, mask))
            return algebra.minimize(
                model,
                self._loss(*terms[-1], size),
                start if mask is None else torch.where(_anywhere(mask) > 0, start, here),
                steps=steps[number],
                optimizer=Adam(self.rate or RATE) if adam else LBFGS(self.rate or 1.0, bounds=(0.0, 1.0)),
                parameterization=algebra.Luminance() if grey else None,
                projections=(clip(),) if adam else (),
                mask=None if mask is None else _anywhere(mask),
                skip=skip,
                progress=_counted(progress, count * self.steps, count * sum(steps[:number]), count * steps[number]),
            )

        begin = noise(seeds, plan.sizes[0]).to(shown) if self.start == "noise" else shown
        return coarse_to_fine(plan.sizes, begin, paint), terms[-1]

    def _loss(self, content: Objective, style: Objective, size: Size) -> Objective:
        # the total variation is not in the paper, which has no term that keeps pixels from going up and down
        weights = Weights(self.content_weight, self.style_weight, self.tv, self.tv_beta)
        return weighted(content, style, weights, size).bounded

    def _terms(
        self, model: nn.Module, content: Tensor, plan: _Plan, mask: Tensor | None
    ) -> tuple[Objective, Objective]:
        """Return content and style loss for contents of the size at hand."""
        relative = self.normalize == "target"
        name = plan.content_layer
        with torch.no_grad(), frozen(model):
            kept = torch.cat([activations(model, one, [name])[name] for one in content.split(1)])
        # The paper's ½ ‖F − P‖² and ‖G − Ĝ‖² / 4N² depend on the network's scale, so that weights serve one network.
        near = algebra.distance(name, kept, relative) * (1.0 if relative else 0.5)
        distances = [
            one
            for region, own in enumerate([None] if mask is None else mask.split(1, 1))
            for one in alike(self._targets(model, content, plan, region), own, relative)
        ]
        return near, mean(distances)

    def _targets(self, model: nn.Module, content: Tensor, plan: _Plan, region: int) -> dict[str, Tensor]:
        """Return the Gram matrices that a region of each content's picture is to have, `(N, C, C)` by layer."""
        pixels = content.shape[2] * content.shape[3]
        styles = [resized(style, self._size_of(style, pixels)) for style in plan.styles]
        masks = [None if plan.style_masks is None else plan.style_masks[m][:, [region]] for m in range(len(styles))]

        def mixed(styles: list[Tensor], shares: Tensor) -> dict[str, Tensor]:
            pairs = zip(styles, masks, strict=True)
            return _mixed([grams(model, style, plan.layers, mask=mask) for style, mask in pairs], shares)

        if self.keep_color == "no" or not len(content):
            return mixed(styles, plan.shares)
        own = []
        for one, shares in zip(content.split(1), plan.shares.split(1), strict=True):
            own.append(mixed([self._recolored(style, one) for style in styles], shares))
        return {name: torch.cat([each[name] for each in own]) for name in plan.layers}

    def _recolored(self, style: Tensor, content: Tensor) -> Tensor:
        """Return a style in the colors that it is to have for one content; for luminance in grey."""
        if self.keep_color == "match":
            return matched(style, content)
        return matched(luminance(style), content[:, :1]).expand(-1, 3, -1, -1)

    def _size_of(self, style: Tensor, pixels: int) -> Size:
        """Return a style's height and width for a content of so many pixels.

        The paper gives the style the content's size. Its own proportions are kept here: as many pixels, at scale 1.
        """
        return size_of(style, pixels * self.style_scale**2)

    def _plan(
        self,
        model: nn.Module,
        content: Tensor,
        style: Sequence[Tensor],
        weights: Sequence[float] | Tensor | None,
        mask: Tensor | None,
        seeds: Tensor | None,
        style_mask: Sequence[Tensor] | None,
    ) -> _Plan:
        """Return what a call takes. Raises UsageError where it does not fit, memory included."""
        _check_content(content)
        seeds_for(len(content), seeds)
        size = content.shape[2], content.shape[3]
        layers = style_layers(model) if self.layers is None else names_of(self.layers)
        styles = _checked_styles(style)
        masks = None if style_mask is None else _checked_style_masks(style_mask, styles, mask)
        regions = masks[0].shape[1] if masks else 1
        plan = _Plan(
            content=_plain(content),
            styles=[_plain(one).to(content) for one in styles],
            shares=_shares(weights, len(content), len(style)).to(content),
            mask=None if mask is None else _checked_mask(mask, content, regions).to(content),
            style_masks=None if masks is None else [one.to(content) for one in masks],
            layers=layers,
            content_layer=self.content_layer or content_layer(model),
            sizes=pyramid(size, self.scales, self.factor),
        )
        for name in (*layers, plan.content_layer):
            resolve(model, name)
        self._check_memory(model, plan)
        return plan

    def _check_memory(self, model: nn.Module, plan: _Plan) -> None:
        size, names = plan.sizes[-1], {*plan.layers, plan.content_layer}
        with frozen(model):
            for one in (plan.sizes[0], *(self._size_of(style, math.prod(plan.sizes[0])) for style in plan.styles)):
                check_maps(model, plan.layers, names, plan.content.new_empty(1, 3, *one))
            batch_for(model, names, plan.content.new_empty(1, 3, *size))
            for style in plan.styles:
                there = self._size_of(style, math.prod(size))
                check_pass(model, plan.layers, plan.content.new_empty(1, 3, *there), "style")


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor without its history; one that was made in inference mode, which gradients refuse, as a copy."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _mixed(found: Sequence[Grams], shares: Tensor) -> dict[str, Tensor]:
    """Return weighted means `(N, C, C)` by layer of M pictures' Gram matrices; shares are `(N, M)`."""
    stacks = {name: torch.stack([each[name] for each in found]) for name in found[0]}
    return {name: torch.einsum("nm,mij->nij", shares.to(stack), stack) for name, stack in stacks.items()}


def _grey(images: Tensor) -> Tensor:
    return luminance(images).expand(-1, 3, -1, -1)


def _divided(steps: int, sizes: int) -> list[int]:
    """Return as many steps for each size, those left over for the first ones."""
    return [steps // sizes + (number < steps % sizes) for number in range(sizes)]


def _counted(progress: Progress | None, total: int, before: int, here: int) -> Progress | None:
    """Return what tells of `here` steps, done in parts, that come after `before` of a total."""
    return None if progress is None else lambda done, parts: progress(before + here * done // parts, total)


def _check_content(content: Tensor) -> None:
    check_images(content)
    if content.shape[1] != 3 or not all(content.shape[2:]) or not bool(content.isfinite().all()):
        raise UsageError(f"content: expected finite pictures (N, 3, H, W) in [0, 1], got {tuple(content.shape)}")


def _checked_styles(style: Sequence[Tensor]) -> Sequence[Tensor]:
    expected = "style: expected a sequence of pictures (1, 3, h, w) in [0, 1]"
    if isinstance(style, Tensor) or not len(style):
        raise UsageError(f"{expected}, got {'one tensor; put it into a list' if len(style) else 'none'}")
    for one in style:
        check_images(one)
        if one.shape[:2] != (1, 3) or not one.numel() or not bool(one.isfinite().all()):
            raise UsageError(f"{expected}, all finite, got {tuple(one.shape)}")
    return style


def _checked_mask(mask: Tensor, content: Tensor, regions: int) -> Tensor:
    count, _, height, width = content.shape
    if mask.shape not in ((1, regions, height, width), (count, regions, height, width)):
        expected = f"(1, {regions}, {height}, {width}) or one for each"
        raise UsageError(f"mask: expected {expected}, got {tuple(mask.shape)}")
    _check_shares("mask", mask)
    return _plain(mask)


def _checked_style_masks(masks: Sequence[Tensor], styles: Sequence[Tensor], mask: Tensor | None) -> list[Tensor]:
    """Return a mask `(1, R, h, w)` for each style; R regions want as many in the content's mask."""
    if isinstance(masks, Tensor) or len(masks) != len(styles):
        came = "one tensor; put it into a list" if isinstance(masks, Tensor) else len(masks)
        raise UsageError(f"style_mask: expected {len(styles)}, one for each style, got {came}")
    regions = 1 if mask is None or mask.ndim != 4 else mask.shape[1]
    for one, style in zip(masks, styles, strict=True):
        height, width = style.shape[2:]
        if one.shape != (1, regions, height, width):
            expected = f"(1, {regions}, {height}, {width}): its style's size, as many channels as the content's mask"
            raise UsageError(f"style_mask: expected {expected}, got {tuple(one.shape)}")
        _check_shares("style_mask", one)
        if not bool((one.amax((2, 3)) > 0).all()):
            raise UsageError("style_mask: expected a place above 0 in each region, got 0 everywhere")
    return [_plain(one) for one in masks]


def _check_shares(name: str, mask: Tensor) -> None:
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise UsageError(f"{name}: expected values in [0, 1]")


def _anywhere(mask: Tensor) -> Tensor:
    """Return where any region is, `(N, 1, H, W)` of `(N, R, H, W)`."""
    return mask.amax(1, keepdim=True)


def _shares(weights: Sequence[float] | Tensor | None, contents: int, styles: int) -> Tensor:
    """Return the share of each style in each content's picture, `(N, M)`; a content's add up to 1."""
    given = torch.ones(styles) if weights is None else torch.as_tensor(weights)
    given = given.detach().to("cpu", torch.float64)
    fits = given.shape in ((styles,), (contents, styles)) and bool((given.isfinite() & (given >= 0)).all())
    if not fits or not bool((given.sum(-1) > 0).all()):
        expected = f"weights: expected {styles} numbers of 0 or above, one a style, not all 0, or such for each content"
        raise UsageError(f"{expected}, got {weights}")
    return (given / given.sum(-1, keepdim=True)).expand(contents, styles)
