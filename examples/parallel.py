"""The same on several workers, each with a band of every image: torchrun --nproc-per-node 2 examples/parallel.py."""

import segmentation_models_pytorch as smp
import torch

import ziggurat

with ziggurat.join_world() as workers:
    torch.manual_seed(0)
    model = smp.Unet("resnet18", encoder_weights=None, classes=2)
    ziggurat.spread(model, f"sp={workers.size}", workers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    criterion = torch.nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        images = torch.rand(1, 3, 320, 288, generator=generator)
        masks = (images.mean(1) > 0.5).long()
        loss = criterion(model(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if workers.is_first:
            print(f"step {step}: loss {loss.item():.6f}")
