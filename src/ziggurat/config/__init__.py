"""A run's configuration: one nested, frozen record, from defaults, a YAML file and ``key=value`` settings.

All faults are found before any process starts.
"""

from ziggurat.config.definition import EXTENDABLE, FREE_ON_RESUME, definition_sha256, earlier_definition
from ziggurat.config.ranges import range_faults
from ziggurat.config.reading import flatten, known_keys, load_config, override, save_config
from ziggurat.config.records import (
    CheckpointConfig,
    DataConfig,
    DecodeConfig,
    DigitsConfig,
    LaunchConfig,
    LossConfig,
    ModelConfig,
    PipelineConfig,
    PnnConfig,
    RunConfig,
    TrainConfig,
    run_task,
)

__all__ = [
    "EXTENDABLE",
    "FREE_ON_RESUME",
    "CheckpointConfig",
    "DataConfig",
    "DecodeConfig",
    "DigitsConfig",
    "LaunchConfig",
    "LossConfig",
    "ModelConfig",
    "PipelineConfig",
    "PnnConfig",
    "RunConfig",
    "TrainConfig",
    "definition_sha256",
    "earlier_definition",
    "flatten",
    "known_keys",
    "load_config",
    "override",
    "range_faults",
    "run_task",
    "save_config",
]
