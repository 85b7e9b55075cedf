"""What a run of classification is like where its user leaves it open: the demo's config, and that of pretrained weights."""

from __future__ import annotations

from ziggurat.config import (
    DataConfig,
    DigitsConfig,
    LossConfig,
    ModelConfig,
    PnnConfig,
    RunConfig,
    TrainConfig,
)

DEMO = RunConfig(
    task="classify",
    model=ModelConfig(name="pnn", pnn=PnnConfig(channels=16, pyramid="laplacian")),
    data=DataConfig(path="digits", crop=96, scale_min=0.9, scale_max=1.1, flip="none", workers=1),
    digits=DigitsConfig(
        size=96, count_min=1, count_max=1, height_min=24, height_max=64, train_scenes=12000, val_scenes=500
    ),
    loss=LossConfig(level_weight=1.0),
    train=TrainConfig(steps=1200, batch_size=16, lr=4e-3, warmup=0.06, ema=0.99, checkpoint_every=0),
)
PRETRAINED_DATA = DataConfig(resize=256, crop=224)
