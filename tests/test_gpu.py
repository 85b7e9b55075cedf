"""The same promises on GPUs: nccl, cuda autocast, pinned memory. Never run by the authors: no GPU was at hand."""

import dataclasses
import os
import signal
import time

import pytest
import torch

from support.joined import configured, joined
from support.local_stages import Skips
from support.paired_runs import PAIRWISE, config_of
from ziggurat.commands.train import train_worker
from ziggurat.config import LaunchConfig
from ziggurat.errors import CollectiveFailed
from ziggurat.parallel.collectives.clock import Clock
from ziggurat.parallel.graph.trace import Tracer
from ziggurat.parallel.pipeline.pipeline import Pipeline, Work
from ziggurat.parallel.runtime.determinism import explain_nondeterminism
from ziggurat.parallel.runtime.launch import Restart, WorkerLost, WorkerSettings, launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and PyTorch finds none here"),
]
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def digest_on(num_gpus, case, folder):
    config = dataclasses.replace(config_of(*case), device="cuda", plan=f"dp={num_gpus}")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=1))
    settings = WorkerSettings(threads=1, device="cuda")
    result = launch(train_worker, (config, str(folder), False, "detect", False), num_gpus, settings)
    return result["weights_sha256"], result["metrics"]


@pytest.mark.parametrize("case", PAIRWISE, ids="-".join)
def test_a_run_repeats_in_the_same_bits(case, tmp_path):
    assert digest_on(1, case, tmp_path / "first") == digest_on(1, case, tmp_path / "second")


@TWO_GPUS
@pytest.mark.parametrize("case", PAIRWISE, ids="-".join)
def test_two_gpus_give_the_bits_of_one(case, tmp_path):
    assert digest_on(1, case, tmp_path / "one") == digest_on(2, case, tmp_path / "two")


def peak_of_joining(workers, folder):
    torch.cuda.reset_peak_memory_stats()
    whole, parallel = joined(workers, configured("fsdp=2"), folder)
    parallel.close()
    return torch.cuda.max_memory_allocated() / whole


@TWO_GPUS
def test_no_gpu_has_the_whole_model_under_fsdp(tmp_path):
    assert launch(peak_of_joining, (tmp_path,), 2, WorkerSettings(threads=1, device="cuda")) < 0.75


def pipelined_on(workers, schedule, cut):
    """Return losses and gradients of two steps and an inference, over NCCL."""
    torch.manual_seed(0)
    model = Skips().double().to(workers.device).train()
    model.scales = [scale.to(workers.device) for scale in model.scales]
    images = [torch.randn(2, 3, 6, 8 + index % 2).double().to(workers.device) for index in range(5)]
    pipeline = Pipeline(model, Tracer(model, workers.device), cut, workers, schedule)
    assert pipeline.channel.in_slots or workers.device.type == "cpu"
    work = Work(len(images), images.__getitem__, lambda o, i: loss_of(o), lambda i: torch.manual_seed(i))
    for _ in range(2):
        _, losses = pipeline.step(work)
    pipeline.infer(Work(len(images), images.__getitem__))
    own = {i: float(loss) for i, loss in losses.items()}
    together = {index: loss for one in workers.gather(own) for index, loss in one.items()}
    gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
    summed = {}
    for one in workers.gather(gradients):
        for name, gradient in one.items():
            summed[name] = summed[name] + gradient if name in summed else gradient
    return together, {name: float(gradient.norm()) for name, gradient in summed.items()}


def loss_of(outputs):
    return sum(leaf.square().sum() for leaf in torch.utils._pytree.tree_leaves(outputs))


@TWO_GPUS
@pytest.mark.parametrize(
    ("schedule", "cut"),
    [("gpipe", ["down"]), ("1f1b", ["down"]), ("interleaved", ["shared", "down", "tied"])],
)
def test_pipelines_end_over_nccl(schedule, cut):
    settings = WorkerSettings(threads=1, device="cuda")
    alone, wanted = launch(pipelined_on, ("gpipe", []), 1, settings)
    together, gradients = launch(pipelined_on, (schedule, cut), 2, settings)
    assert together == pytest.approx(alone, rel=1e-9)
    assert gradients == pytest.approx(wanted, rel=1e-9)


def die_in_a_sum(workers, folder):
    """Worker 1 is killed while the other waits for it on the device."""
    if workers.rank == 1:
        workers.barrier()
        torch.cuda.synchronize()
        os.kill(os.getpid(), signal.SIGKILL)
    workers.barrier()
    torch.cuda.synchronize()
    begin = time.monotonic()
    try:
        workers.add_up(torch.ones(1 << 20, device=workers.device))
        workers.confirm()
    except CollectiveFailed as error:
        (folder / "said").write_text(f"{time.monotonic() - begin} {error}")
        raise


@TWO_GPUS
def test_a_survivor_hears_of_a_dead_peer_and_does_not_hang(tmp_path):
    said = tmp_path / "said"
    restart = Restart(lambda count: (), lambda count: count, lambda: 1 if said.exists() else None, lambda: 2)
    settings = WorkerSettings(1, "cuda", LaunchConfig(max_restarts=0))
    with pytest.raises(WorkerLost, match="worker 1 was killed"):
        launch(die_in_a_sum, (tmp_path,), 2, settings, restart)
    seconds, message = said.read_text().split(" ", 1)
    assert float(seconds) < 30
    assert "worker 1 was killed by SIGKILL" in message


def test_the_clock_measures_the_device():
    clock, device = Clock(), torch.device("cuda")
    a = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    with clock.span(device):
        for _ in range(20):
            a = a @ a / 64
    assert clock.seconds > clock.host_seconds > 0


def refuse(workers):
    x = torch.rand(1, 1, 9, 9, device=workers.device, requires_grad=True)
    try:
        torch.nn.functional.adaptive_avg_pool2d(x, 4).sum().backward()
    except RuntimeError as error:
        return str(explain_nondeterminism(error))
    return None


def test_what_has_no_deterministic_form_is_named():
    told = launch(refuse, (), 1, WorkerSettings(threads=1, device="cuda"))
    assert "adaptive_avg_pool2d_backward" in told
    assert not torch.are_deterministic_algorithms_enabled()
