"""What defines a run: one nested, frozen record; every part of the program receives its own section only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ziggurat.config.data_config import DataConfig, DigitsConfig
from ziggurat.config.fields import SEED, between, setting
from ziggurat.config.local_sgd_config import LocalSgdConfig
from ziggurat.config.members_config import MembersConfig
from ziggurat.config.model_config import ModelConfig
from ziggurat.config.plan_config import LaunchConfig, PipelineConfig, TensorConfig
from ziggurat.config.task_config import DecodeConfig, LossConfig
from ziggurat.config.train_config import CheckpointConfig, TrainConfig


@dataclass(frozen=True)
class RunConfig:
    """All that defines a run, and where it runs."""

    task: str = setting(
        "auto",
        "``detect``, ``classify``, ``segment``, or the name of a task from outside; ``auto`` is resolved "
        "before the run starts, from the model's name, else from the data.",
    )
    plan: str = setting(
        "",
        "Degrees of the mesh axes: ``dp=2`` (samples over workers), ``sp=2`` (each image in bands of "
        "rows), ``sp=2x2`` (in tiles), ``pp=2`` (parts of the network), ``lp=2`` (parallel branches), "
        "``tp=2`` (wide layers), ``fsdp=2`` (samples and weights), and products such as ``dp=2,sp=2``; "
        "says where each piece is computed, not what. Empty takes every device of the machine as dp; ``auto`` takes the plan "
        "that ``ziggurat plan`` finds best, ``auto:measured`` the best of three that are measured.",
    )
    seed: int = setting(0, "Keys every random choice.", between(0, SEED))
    threads: int = setting(
        0,
        "Threads of each worker; 0 stands for the cores divided by the local workers, and is resolved "
        "before the run starts.",
        between(0, 1024),
    )
    dtype: Literal["auto", "bf16", "fp32"] = setting(
        "auto",
        "``bf16`` (autocast) or ``fp32``; ``auto`` takes bf16 where the device has units for it, and is "
        "resolved before the run starts.",
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "``auto`` takes GPUs where there are any.")
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    digits: DigitsConfig = field(default_factory=DigitsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    members: MembersConfig = field(default_factory=MembersConfig)
    local_sgd: LocalSgdConfig = field(default_factory=LocalSgdConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    tensor: TensorConfig = field(default_factory=TensorConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)


def run_task(config: RunConfig) -> str:
    """Return the task of a resolved config.

    Raises:
        ValueError: If it is ``auto`` still.
    """
    if config.task == "auto":
        raise ValueError("the task must be resolved: got auto; set RunConfig.task to the name of a task")
    return config.task
