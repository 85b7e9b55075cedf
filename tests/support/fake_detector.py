"""A detector that needs no training: it finds bright squares, each a pure function of the pixels in and around it."""

from dataclasses import dataclass, field

import torch
from scipy import ndimage

from ziggurat.data.batch import Objects
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.detections import Detections
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.base import Task
from ziggurat.tasks.detection.suppression import suppress
from ziggurat.tasks.detection.task import DetectionTask


class BrightSquares(VisionModel):
    """Passes its input on."""

    task = "detect"
    num_classes = 2
    class_layers = ()
    size_multiple = 32
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def forward(self, images_BCHW):
        assert not torch.is_grad_enabled()
        assert not self.training
        return images_BCHW


class FindSquares(DetectionTask):
    """The task of `BrightSquares`: the red channel says where, the green channel the score, the blue one the class."""

    def __init__(self, config):
        Task.__init__(self, BrightSquares(), config)  # there is no head

    def detections(self, outputs, sizes):
        return [self._of_one(image[:, :h, :w].float()) for image, (h, w) in zip(outputs, sizes, strict=True)]

    def _of_one(self, image_CHW):
        squares = ndimage.find_objects(ndimage.label(image_CHW[0].numpy() > 0.5)[0])
        boxes = [(c.start, r.start, c.stop, r.stop) for r, c in squares]
        pixels = [image_CHW[1:, r.start, c.start] for r, c in squares]
        found = Detections(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            torch.tensor([float(p[0]) for p in pixels]),
            torch.tensor([int(p[1] > 0.5) for p in pixels], dtype=torch.int64),
        )
        return suppress(found, 0.99, self.config.decode.max_detections)


@dataclass
class Squares:
    """A data set of images with bright squares, none of which touches another."""

    sizes: list[tuple[int, int]]
    largest: int = 12
    per_image: int = 40
    classes: tuple[str, ...] = ("dark", "bright")
    category_ids: tuple[int, ...] = (3, 7)
    decoded: list[int] = field(default_factory=list)

    def __len__(self):
        return len(self.sizes)

    def record(self, index):
        return ImageRecord(f"{index}.png", index + 1, *self.sizes[index])

    def image(self, index):
        self.decoded.append(index)
        return self._scene(index)[0]

    def objects(self, index):
        return self._scene(index)[1]

    def _scene(self, index):
        height, width = self.sizes[index]
        generator = torch.Generator().manual_seed(index)
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        boxes, labels = [], []
        for _ in range(self.per_image):
            side = int(torch.randint(4, self.largest + 1, (), generator=generator))
            top = int(torch.randint(0, height - side + 1, (), generator=generator))
            left = int(torch.randint(0, width - side + 1, (), generator=generator))
            score = int(torch.randint(60, 250, (), generator=generator))
            label = int(torch.randint(0, 2, (), generator=generator))
            if image[0, max(top - 1, 0) : top + side + 1, max(left - 1, 0) : left + side + 1].any():
                continue
            pixels = torch.tensor([255, score, 255 * label], dtype=torch.uint8)
            image[:, top : top + side, left : left + side] = pixels[:, None, None]
            boxes.append((left, top, left + side, top + side))
            labels.append(label)
        return image, Objects(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64)
        )
