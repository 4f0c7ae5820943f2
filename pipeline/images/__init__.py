"""Pictures by optimization: objective × parameterization × transforms × projections, and one loop.

from afterimage.images import channel, maximize, total_variation

maximize(model, channel("layer3", 20) - 1e-3 * total_variation(), start, steps=256)
"""

from .facets import facets
from .lbfgs import LBFGS
from .objectives import (
    Objective,
    Seen,
    alpha_norm,
    amplify,
    channel,
    distance,
    guided,
    l2,
    layer,
    lead,
    logit,
    neuron,
    objective,
    probability,
    style,
    total_variation,
)
from .optimize import Glance, Result, maximize, minimize
from .optimizers import Adam, Ascent
from .parameterization import Fourier, Luminance, Pixels
from .universal import universal_patch

__all__ = [
    "LBFGS",
    "Adam",
    "Ascent",
    "Fourier",
    "Glance",
    "Luminance",
    "Objective",
    "Pixels",
    "Result",
    "Seen",
    "alpha_norm",
    "amplify",
    "channel",
    "distance",
    "facets",
    "guided",
    "l2",
    "layer",
    "lead",
    "logit",
    "maximize",
    "minimize",
    "neuron",
    "objective",
    "probability",
    "style",
    "total_variation",
    "universal_patch",
]
