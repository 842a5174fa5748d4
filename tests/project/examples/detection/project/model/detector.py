"""A RetinaNet of torchvision with a small backbone."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead


class Detector(nn.Module):
    """A list of images ``(1, height, width)`` -> in training losses, in evaluation boxes of each image.

    Args:
        num_classes: Classes of a box, from 0.
        width: Channels of the backbone.
        size: Smaller side to which the images are resized.
        score: Smallest score of a box that is returned.
    """

    def __init__(self, *, num_classes: int, width: int, size: int, score: float) -> None:
        super().__init__()
        backbone: Any = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        backbone.out_channels = width  # torchvision asks for it
        self.net = RetinaNet(
            backbone,
            num_classes,
            head=RetinaNetHead(width, 2, num_classes, norm_layer=partial(nn.GroupNorm, 4)),
            min_size=size,
            max_size=2 * size,
            image_mean=[0.5],
            image_std=[0.25],
            anchor_generator=AnchorGenerator(((9, 13),), ((1.0,),)),
            score_thresh=score,
            detections_per_img=10,
        )

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        return self.net(images, targets)
