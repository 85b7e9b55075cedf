"""What a run of segmentation is like where its user leaves it open: the demo's config."""

from __future__ import annotations

from ziggurat.config import DataConfig, DigitsConfig, LossConfig, ModelConfig, RunConfig, TrainConfig

DEMO = RunConfig(
    task="segment",
    model=ModelConfig(name="smp:segformer/tu-test_resnet", channels=64),
    data=DataConfig(path="digits", crop=64, scale_min=0.9, scale_max=1.1, flip="none", workers=1),
    digits=DigitsConfig(
        size=64, count_min=1, count_max=2, height_min=24, height_max=56, train_scenes=6000, val_scenes=300
    ),
    loss=LossConfig(segmentation="ce+dice"),
    train=TrainConfig(steps=2000, batch_size=16, lr=4e-3, warmup=0.06, ema=0.99, checkpoint_every=0),
)
