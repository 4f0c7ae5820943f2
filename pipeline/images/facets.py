"""Facets: the kinds of picture that a class has, each as the mean image `(3, H, W)` that its visualization starts at.

Nguyen, Yosinski, Clune, Multifaceted feature visualization, 2016 (arXiv:1602.03616), algorithm 1.
"""

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.frozen import frozen
from ..models.gradients import check_images
from ..models.layers import activations
from ..models.stages import stages
from .memory import batch_for


def facets(
    model: nn.Module, images: Tensor, count: int, layer: str | None = None, nearest: int = 15, seed: int = 0
) -> Tensor:
    """Return the facets `(count, 3, H, W)` of a class's `images` `(N, 3, H, W)`, that of most images first.

    Images are clustered by what a layer gives for them (the last one with maps unless named, its mean over positions);
    a facet is the mean of the `nearest` images to the middle of a cluster, as the paper has it, or of all where there
    are fewer. Raises UsageError where there are fewer different images than facets.
    """
    check_images(images)
    if count < 1 or nearest < 1 or len(images) < count:
        came = f"{count} of {nearest} nearest among {len(images)} images"
        raise UsageError(f"facets: expected at least one, of one image each, and no more than images, got {came}")
    images = images.detach()
    features = _features(model, images, layer)
    middles, members = _clusters(features, count, seed)
    away = (features - middles[members]).norm(dim=1)
    order = sorted(range(count), key=lambda one: -int((members == one).sum()))
    found = []
    for cluster in order:
        own = (members == cluster).nonzero().squeeze(1)
        closest = own[away[own].argsort(stable=True)[:nearest]]
        found.append(images[closest.to(images.device)].mean(0))
    return torch.stack(found)


def _features(model: nn.Module, images: Tensor, layer: str | None) -> Tensor:
    """Return a vector for each image, `(N, C)` float64 on the CPU."""
    name = layer or stages(model, (images.shape[2], images.shape[3]))[-1][-1]
    parts = images.split(batch_for(model, [name], images))
    with frozen(model), torch.no_grad():
        found = torch.cat([activations(model, part, [name])[name].cpu().double() for part in parts])
    return found.mean((2, 3)) if found.ndim == 4 else found.flatten(1)


def _clusters(features: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the middles `(count, C)` of clusters and which of them each image belongs to, `(N,)`."""
    if len(features.unique(dim=0)) < count:
        raise UsageError(f"facets: expected {count} different images at least; use fewer facets, or another layer")
    from sklearn.cluster import KMeans

    # The paper clusters a t-SNE embedding; k-means on the features themselves has the same aim and no free scale.
    found = KMeans(count, n_init=10, random_state=seed).fit(features.numpy())
    return torch.from_numpy(found.cluster_centers_), torch.from_numpy(found.labels_).long()
