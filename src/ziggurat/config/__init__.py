"""A run's configuration: one nested, frozen record, from defaults, a YAML file and ``key=value`` settings.

All faults are found before any process starts.
"""

from ziggurat.config.data_config import DataConfig, DigitsConfig, read_numbers
from ziggurat.config.definition import EXTENDABLE, FREE_ON_RESUME, definition_sha256, earlier_definition
from ziggurat.config.local_sgd_config import LocalSgdConfig
from ziggurat.config.members_config import MembersConfig, read_grouping
from ziggurat.config.model_config import ModelConfig, PnnConfig, bands_of
from ziggurat.config.names import full_names, known_keys
from ziggurat.config.plan_config import LaunchConfig, PipelineConfig
from ziggurat.config.ranges import range_faults
from ziggurat.config.reading import flatten, load_config, override, read_settings, save_config
from ziggurat.config.reads import check_command, listed, matches, read_config
from ziggurat.config.records import RunConfig, run_task
from ziggurat.config.task_config import DecodeConfig, LossConfig
from ziggurat.config.train_config import CheckpointConfig, TrainConfig

__all__ = [
    "EXTENDABLE",
    "FREE_ON_RESUME",
    "CheckpointConfig",
    "DataConfig",
    "DecodeConfig",
    "DigitsConfig",
    "LaunchConfig",
    "LocalSgdConfig",
    "LossConfig",
    "MembersConfig",
    "ModelConfig",
    "PipelineConfig",
    "PnnConfig",
    "RunConfig",
    "TrainConfig",
    "bands_of",
    "check_command",
    "definition_sha256",
    "earlier_definition",
    "flatten",
    "full_names",
    "known_keys",
    "listed",
    "load_config",
    "matches",
    "override",
    "range_faults",
    "read_config",
    "read_grouping",
    "read_numbers",
    "read_settings",
    "run_task",
    "save_config",
]
