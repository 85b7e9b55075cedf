"""Everything of PyTorch that is private, or public without a promise: each behind a named function, with its reason.

A minor version of PyTorch may move or change any of it. So it stands here alone, a test for each part fails when it has
moved, and nothing else in the package touches it (which a test holds, too).

The room lies below all others but `errors`: models, data, parallelism and runs may all ask it, and it knows none of them. Its
files are parted by what they import, so that a model does not load PyTorch's sharding.

| file | what of PyTorch |
|---|---|
| tensors | memory, versions, views, subclasses without memory, arithmetic on lists of tensors |
| containers | walking through nested containers |
| modules | bases of layers, hooks, a layer's own parameters and buffers |
| hooks | hooks on gradients: which there are, seeing one being registered |
| kernels | gradients of convolution, norm and pooling as operators |
| norms | gradients of norms, where PyTorch's own are wrong |
| operators | operators by name, and what each takes |
| results | what operators would return, without computing it |
| untouched_memory | tensors on memory that nobody has touched |
| functions | seeing calls of functions, of operators, of custom autograd functions |
| default_group | hiding the default process group |
| sharding | `fully_shard` and `DTensor` beyond their documentation; what else spreads a network by itself |
| stores | the stores that workers meet at |
| storage | the safetensors form of `torch.distributed.checkpoint` |
| prepacked | weights of convolutions as oneDNN takes them, kept from batch to batch |
| machine | what units the CPU has |
"""
