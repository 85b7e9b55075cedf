"""All strategies. A new axis is a new file, and a line here."""

from __future__ import annotations

from ziggurat.strategies.base import Strategy
from ziggurat.strategies.branches import LevelParallel
from ziggurat.strategies.data import DataParallel
from ziggurat.strategies.pipeline import PipelineParallel
from ziggurat.strategies.sharded import ShardedParallel
from ziggurat.strategies.spatial import SpatialParallel
from ziggurat.strategies.tensor import TensorParallel

# In the order in which a plan names them.
STRATEGIES: dict[str, type[Strategy]] = {
    kind.axis: kind
    for kind in (
        DataParallel,
        ShardedParallel,
        SpatialParallel,
        PipelineParallel,
        TensorParallel,
        LevelParallel,
    )
}
# In the order in which a model is placed: what is split is then cut into stages, and what is left is sharded.
PLACING = ("dp", "sp", "tp", "pp", "lp", "fsdp")
