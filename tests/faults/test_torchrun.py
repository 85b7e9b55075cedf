"""Under torchrun a lost worker leads to a new world, which goes on from the newest checkpoint by itself."""

import json
import os
import subprocess
import sys

import pytest

from faults.runs import SETTINGS, run
from ziggurat.parallel.runtime.heartbeat import FAULTS


def torchrun(folder, processes, faults, *options):
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        "--max-restarts", "2", "--monitor-interval", "0.1",
        "-m", "ziggurat", "train", "digits", "--plan", "dp=2", "--json", "--out", str(folder), *settings, *options,
    ]  # fmt: skip
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", FAULTS: faults}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


@pytest.mark.slow
def test_torchrun_starts_again_from_the_newest_checkpoint(tmp_path):
    undisturbed = run(tmp_path / "undisturbed", "dp=1")["weights_sha256"]
    faults = "kill@backward rank=1 step=4 attempt=0; kill@process group rank=0 attempt=1"
    result, _ = torchrun(tmp_path / "run", 2, faults)
    assert result["weights_sha256"] == undisturbed
    # Steps 5 and 6 are taken after the checkpoint of step 4; if that had not been published yet, 3 and 4 before them.
    assert result["samples"] in (8 + 4, 4 + 8 + 8 + 4)


@pytest.mark.slow
def test_the_plan_follows_the_world(tmp_path):
    undisturbed = run(tmp_path / "undisturbed", "dp=1")["weights_sha256"]
    result, _ = torchrun(tmp_path / "run", 3, "")
    assert (result["plan"], result["microbatches"]) == ("dp=3", 4)
    assert result["weights_sha256"] == undisturbed
