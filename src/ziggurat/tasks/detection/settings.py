"""What a run of detection is like where its user leaves it open: the demo's config, and that of pretrained weights."""

from __future__ import annotations

from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

from ziggurat.config import DataConfig, DecodeConfig, DigitsConfig, ModelConfig, RunConfig, TrainConfig

DEMO = RunConfig(
    task="detect",
    model=ModelConfig(name="fcos-resnet10t-fpn", levels="p3-p4", channels=64, head_depth=2),
    data=DataConfig(path="digits", crop=128, scale_min=0.8, scale_max=1.25, flip="none", workers=1),
    digits=DigitsConfig(size=128, train_scenes=4000, val_scenes=200),
    decode=DecodeConfig(score_threshold=0.05, nms_threshold=0.5, max_detections=50),
    train=TrainConfig(steps=1200, batch_size=8, lr=3e-3, warmup=0.06, ema=0.99, checkpoint_every=0),
)
# what torchvision's detectors do with an image and with their outputs
PRETRAINED_DATA = DataConfig(resize=800, resize_limit=1333, crop=1333, antialias=False)
PRETRAINED_DECODE = {
    "fcos": DecodeConfig(score_threshold=0.2, nms_threshold=0.6, candidates=1000, max_detections=100),
    "retinanet": DecodeConfig(score_threshold=0.05, nms_threshold=0.5, candidates=1000, max_detections=300),
}


def coco_classes(count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return names and category ids of COCO's classes; none if `count` is neither 91 nor 80.

    Of 91 the label is the category id: one is the background, and ten were never used.

    Example:
        >>> names, ids = coco_classes(91)
        >>> names[1], ids[1], names[12]
        ('person', 1, 'N/A 12')
    """
    names = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    rows = [(name if name != "N/A" else f"N/A {id}", id) for id, name in enumerate(names)]
    if count != len(rows):
        rows = [(name, id) for name, id in rows if id and not name.startswith("N/A")]
    if count != len(rows):
        return (), ()
    return tuple(name for name, _ in rows), tuple(id for _, id in rows)
