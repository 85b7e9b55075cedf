"""A training loop of your own, in the same bits on any number of workers: python examples/own_loop.py WORKERS."""

import sys

import torch
from torch import nn

from ziggurat import DataParallel, Workers, launch
from ziggurat.parallel.runtime.launch import WorkerSettings
from ziggurat.runs.folder import weights_sha256

NUM_MICROBATCHES = 8  # part of the run's definition, as the seed is


def make_microbatch(step: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + index)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    return images, (images.mean(dim=(1, 2, 3)) > 0).long()


def train(workers: Workers) -> str:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    parallel = DataParallel(model, workers)
    for step in range(20):
        parallel.start(NUM_MICROBATCHES)
        batches = {index: make_microbatch(step, index) for index in parallel.mine}
        # The loss is divided by the samples of the whole batch, over all workers.
        counts = [torch.tensor([float(len(labels))], dtype=torch.float64) for _, labels in batches.values()]
        num_samples = parallel.sum(counts, width=1).item()
        for index, (images, labels) in batches.items():
            with parallel.leaf(index):
                loss_share = nn.functional.cross_entropy(model(images), labels, reduction="sum") / num_samples
                loss_share.backward()
        parallel.finish_gradients()
        parallel.finish_statistics()
        optimizer.step()
    return weights_sha256(model)


if __name__ == "__main__":
    num_workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    print(launch(train, (), num_workers, WorkerSettings(threads=1, device="cpu")))
