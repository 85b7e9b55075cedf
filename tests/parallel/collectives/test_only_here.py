"""An audit of the source: workers talk to each other through `Workers`, and nowhere else."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src" / "ziggurat"

# The modules that may call PyTorch's own collectives, or begin and end the world.
HERE = {
    "parallel/collectives/workers.py",
    "parallel/collectives/communicator.py",
    "parallel/collectives/groups.py",
    "parallel/collectives/local_connections.py",
    "parallel/collectives/requests.py",
    "parallel/runtime/launch.py",
    "parallel/runtime/joining.py",
}
# What others import of it, each for a reason; none of this is a call of a collective by this program.
EXCEPTIONS = {
    ("strategies/sharded.py", "torch.distributed.fsdp"): "fully_shard talks by itself, over Workers.device_mesh()",
    ("strategies/sharded.py", "torch.distributed.tensor"): "what fully_shard makes of a parameter",
    ("strategies/placing.py", "torch.distributed.tensor"): "what fully_shard makes of a parameter",
    ("strategies/whole.py", "torch.distributed.tensor"): "what fully_shard makes of a parameter",
    ("planning/processes.py", "torch.distributed"): "makes the world of workers that are looked at, as launch does",
    ("torch_internals/default_group.py", "torch.distributed.distributed_c10d"): "hides the default group from networks",
    ("torch_internals/sharding.py", "torch.distributed"): "the type of a group, for layers that hold one",
    ("torch_internals/sharding.py", "torch.distributed.device_mesh"): "likewise of a mesh",
    ("torch_internals/sharding.py", "torch.distributed.fsdp"): "the type of a sharded module",
    ("torch_internals/sharding.py", "torch.distributed.fsdp._fully_shard"): "sees where weights' memory is freed",
    ("torch_internals/results.py", "torch.distributed"): "the members of a group, of which an operator of its own knows",
    ("torch_internals/sharding.py", "torch.distributed.tensor"): "what fully_shard makes of a parameter",
    ("torch_internals/stores.py", "torch._C._distributed_c10d"): "types of stores",
}  # fmt: skip


def dotted(node):
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def reached(text):
    """Return the modules of torch.distributed that a source imports or names."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "torch" else {node.module}
        elif isinstance(node, ast.Attribute):
            name = dotted(node)
            if name.startswith(("torch.distributed", "torch._C._distributed")):
                found.add(".".join(name.split(".")[:2]))
    return {name for name in found if name.startswith(("torch.distributed", "torch._C._distributed"))}


def test_workers_talk_through_workers_only():
    found = set()
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if name not in HERE:
            found |= {(name, module) for module in reached(path.read_text(encoding="utf-8"))}
    assert found == EXCEPTIONS.keys()


@pytest.mark.parametrize(
    "line",
    [
        "import torch.distributed as dist", "from torch import distributed", "import torch\ntorch.distributed.barrier()",
        "from torch.distributed import all_reduce", "from torch._C._distributed_c10d import Store",
        "def f():\n    from torch.distributed.tensor import DTensor",
    ],
)  # fmt: skip
def test_the_audit_finds_what_it_looks_for(line):
    assert reached(line)
    assert not reached("import torch\nfrom torch import nn\ntorch.zeros(1)")


def test_who_waits_says_so_in_one_place():
    """`waiting` is noted where a collective waits, and where something else than a collective does."""
    users = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if any(
            isinstance(node, ast.Call) and dotted(node.func) == "waiting"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    }
    others = {
        "parallel/runtime/crew.py",  # for the word of the launcher: all new workers have come
        "parallel/runtime/launch.py",  # for the world to meet
        "runs/checkpoint/checkpoints.py",  # for the thread that writes
        "training/snapshot.py",  # for a lock
    }
    silent = {
        "parallel/collectives/workers.py",
        "parallel/collectives/local_connections.py",
    }  # others wait for them
    assert users == {name for name in HERE if "collectives" in name} - silent | others
