"""What a model calls on a spatial tensor finds the table's entry, whichever module was imported first."""

import subprocess
import sys

import pytest

FIRST = ("tensor", "table", "operations.pointwise", "dispatch", "mesh")
ASK = """
import ziggurat.parallel.spatial.{first}
import torch
from ziggurat.parallel.spatial.axis import Axis
from ziggurat.parallel.spatial.mesh import SpatialMesh
from ziggurat.parallel.spatial.tensor import as_whole
assert torch.relu(as_whole(torch.tensor([-1.0, 2.0]), SpatialMesh(()))).local.tolist() == [0, 2]
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("first", FIRST)
def test_any_module_may_be_imported_first(first: str) -> None:
    done = subprocess.run([sys.executable, "-c", ASK.format(first=first)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
