"""The same promises on GPUs: nccl, cuda autocast, pinned memory. Never run by the authors: no GPU was at hand."""

import dataclasses

import pytest
import torch

from support.joined import configured, joined
from support.paired_runs import PAIRWISE, config_of
from ziggurat.commands.start import _train_worker
from ziggurat.parallel.runtime.launch import WorkerSettings, launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and PyTorch finds none here"),
]


def digest_on(num_gpus, case, folder):
    config = dataclasses.replace(config_of(*case), device="cuda", plan=f"dp={num_gpus}")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=1))
    settings = WorkerSettings(threads=1, device="cuda")
    result = launch(_train_worker, (config, str(folder), False, "detect"), num_gpus, settings)
    return result["weights_sha256"], result["metrics"]


@pytest.mark.parametrize("case", PAIRWISE, ids="-".join)
def test_a_run_repeats_in_the_same_bits(case, tmp_path):
    assert digest_on(1, case, tmp_path / "first") == digest_on(1, case, tmp_path / "second")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("case", PAIRWISE, ids="-".join)
def test_two_gpus_give_the_bits_of_one(case, tmp_path):
    assert digest_on(1, case, tmp_path / "one") == digest_on(2, case, tmp_path / "two")


def peak_of_joining(workers, folder):
    torch.cuda.reset_peak_memory_stats()
    whole, training = joined(workers, configured("fsdp=2"), folder)
    training.close()
    return torch.cuda.max_memory_allocated() / whole


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_no_gpu_has_the_whole_model_under_fsdp(tmp_path):
    assert launch(peak_of_joining, (tmp_path,), 2, WorkerSettings(threads=1, device="cuda")) < 0.75
