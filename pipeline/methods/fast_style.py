"""Fast style transfer: a network that was trained for a style paints a picture in one pass.

    W = argmin over pictures x of E [L_content(f_W(x), x) + λ L_style(f_W(x))],   result = (1 − s) x + s f_W(x)

Johnson, Alahi, Li, Perceptual Losses for Real-Time Style Transfer and Super-Resolution, ECCV 2016 (arXiv:1603.08155);
several styles in one network, mixed by shares: Dumoulin, Shlens, Kudlur, A Learned Representation for Artistic Style,
ICLR 2017 (arXiv:1610.07629).
"""

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..images.colors import luminance, with_luminance
from ..images.scales import resized
from ..models.gradients import check_images
from ..models.style.net import LEAST
from ..models.style.shares import parsed, shares_of
from ..models.style.source import painter
from ..registry import Image, option, register


@register(verb="stylize", network="paintings", network_flag="net", fit="none", family="style", photos=True)
class FastStyle:
    """A picture painted by a network that was trained for a style, in one pass."""

    strength: float = option(1.0, "share of the painting, 0 to 1; the picture itself has the rest")
    style: str | None = option(None, "the network's style, or several by shares, as a=0.3,b=0.7; default: its first")
    keep_color: bool = option(False, "take the painting's luminance alone, and keep the picture's colors")
    work_size: int | None = option(
        None, "longer side that the network sees; strokes then look alike whatever the pixels; default: the picture's"
    )

    def __post_init__(self) -> None:
        """Refuse, with UsageError, numbers that are none of theirs."""
        if not 0 <= self.strength <= 1:
            raise UsageError(f"strength: expected 0 to 1, got {self.strength:g}")
        if self.work_size is not None and self.work_size < LEAST:
            raise UsageError(f"work_size: expected {LEAST} pixels or more, got {self.work_size}")
        parsed(self.style)

    def __call__(self, model: nn.Module, images: Tensor) -> Image:
        """Return images `(N, 3, H, W)` in [0, 1] painted, of the same size, H and W ≥ 16."""
        self.check(model, images)
        if not len(images):
            return images.detach()
        net = painter(model)
        with torch.no_grad():
            images = images.detach()
            shares = images.new_tensor([shares_of(net.styles, self.style)])
            size = images.shape[2], images.shape[3]
            # bicubic values go beyond [0, 1]
            painted = resized(net(self._worked(images), shares=shares), size).clamp(0, 1)
            if self.keep_color:
                painted = with_luminance(images, luminance(painted))
            return torch.lerp(images, painted, self.strength)

    def check(self, model: nn.Module, images: Tensor) -> None:
        """Refuse, with UsageError, what does not fit; takes what the call takes."""
        check_images(images)
        shares_of(painter(model).styles, self.style)
        if min(images.shape[2:]) < LEAST:
            height, width = images.shape[2:]
            raise UsageError(f"images: expected {LEAST} × {LEAST} pixels or more to paint, got {height} × {width}")

    def _worked(self, images: Tensor) -> Tensor:
        """Return the images as large as the network sees them."""
        if self.work_size is None:
            return images
        scale = self.work_size / max(images.shape[2:])
        # the shorter side of a narrow strip stays as long as the network needs it
        height, width = (max(LEAST, round(side * scale)) for side in images.shape[2:])
        return resized(images, (height, width)).clamp(0, 1)
