"""What networks, and the Python around them, ask of a tensor: numbers, texts, copies, shapes, operators, draws; as on one worker, or refused by name."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit

from support.ranks import run_ranks
from ziggurat.errors import UserError
from ziggurat.parallel.spatial import SpatialTensor, cut, spatial_mesh, whole_tensor

KNOWN = {"copy": copy, "io": io, "math": math, "pickle": pickle, "np": np, "torch": torch, "nn": nn, "F": F}
EXPRESSIONS = [
    "format(x.mean(), '.3f')",
    'f"{x.mean():.2f}"',
    'f"{x.sum().item():.6e}"',
    "repr(x)[:6] and 1",
    "len(x)",
    "[t.sum() for t in x][0]",
    "sum(x.unbind(0))",
    "max(x.mean(), x.max())",
    "sorted([x.mean(), x.max()], key=float)[0]",
    "float(x.mean())",
    "int(x.mean() * 100)",
    "bool((x > 0).any())",
    "x.mean() if x.mean() > -100 else x",
    "round(float(x.mean()), 3)",
    "math.sqrt(abs(float(x.mean())))",
    "x is None",
    "x.mean() == x.mean()",
    "x in [x] and 1",
    "hash(x) and 1",
    "id(x) and 1",
    "isinstance(x, torch.Tensor)",
    "torch.is_tensor(x)",
    "torch.is_floating_point(x)",
    "x.dtype",
    "x.layout",
    "x.requires_grad",
    "x.is_leaf and 1",
    "x.ndim",
    "x.nelement()",
    "x.nbytes",
    "x.itemsize",
    "x.element_size()",
    "x.storage_offset()",
    "x.data_ptr() and 1",
    "x.untyped_storage() and 1",
    "np.asarray(x.detach()).shape",
    "x.detach().numpy().shape",
    "x.detach().cpu().numpy().sum()",
    "x.tolist()",
    "x.mean().tolist()",
    "copy.copy(x) * 2",
    "copy.deepcopy(x.detach()) * 2",
    "pickle.dumps(x) and 1",
    "torch.save(x, io.BytesIO())",
    "x.clone().detach_() * 2",
    "x.detach().requires_grad_().sum()",
    "x.new_tensor([1.0, 2.0]).sum() * x.mean()",
    "torch.tensor(x.mean()) * x",
    "torch.as_tensor(x) * 2",
    "torch.asarray(x) * 2",
    "torch.from_numpy(np.ones(3)) * x.mean()",
    "np.float64(2) * x",
    "x * np.float64(2)",
    "x * np.array(2.0)",
    "2 ** x",
    "x ** 2",
    "x // 0.5",
    "x % 0.5",
    "-x",
    "+x",
    "abs(x)",
    "~(x > 0)",
    "(x > 0) & (x < 1)",
    "(x > 0) | (x < -1)",
    "(x > 0) ^ (x < 1)",
    "(x * 10).long() << 1",
    "(x * 10).long() >> 1",
    "divmod(x, 0.5)[0]",
    "x @ x.transpose(2, 3) if x.shape[2] == x.shape[3] else x * 1",
    "torch.add(x, x, out=torch.empty(0, dtype=x.dtype))",
    "torch.add(x, 1, alpha=2)",
    "torch.autograd.grad(x.pow(2).sum(), x)[0]",
    "torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)[0] * x",
    "torch.utils.checkpoint.checkpoint(lambda t: t.sin() * t, x, use_reentrant=False)",
    "torch.utils.checkpoint.checkpoint(lambda t: t.sin() * t, x, use_reentrant=True)",
    "torch.nn.utils.rnn.pad_sequence([x[0, 0], x[1, 0, :3]])",
    "x.to_sparse().to_dense()",
    'x.to("cpu") * 2',
    "x.cpu() * 2",
    "x.to(torch.float32).double()",
    "x.bfloat16().double()",
    "x.float().to(x)",
    "x.to(x.device, x.dtype, non_blocking=True, copy=True) * 2",
    "x.to(memory_format=torch.channels_last) * 2",
    "x.register_hook(lambda g: g) and 1",
    "x.backward and 1",
    "x.clone().resize_(2, 3)",
    "x.clone().squeeze_().sum()",
    "x.clone().transpose_(2, 3) * 2",
    "x.clone().unsqueeze_(0) * 2",
    "torch.stack(list(x)).sum()",
    "torch.cat(tuple(x), 0)",
    "torch.Tensor.add(x, x)",
    "torch.ops.aten.add(x, x)",
    "torch.ops.aten.relu.default(x)",
    "torch._C._nn.gelu(x)",
    "torch.broadcast_shapes(x.shape, (1,))",
    "torch.result_type(x, 1)",
    "torch.can_cast(x.dtype, torch.float)",
    "torch.promote_types(x.dtype, torch.float32)",
    "torch.numel(x)",
    "torch.Size(x.shape)",
    "torch.empty(x.shape, dtype=x.dtype).zero_() + x",
    "torch.zeros(x.size(), dtype=x.dtype) + x",
    "torch.zeros(*x.shape, dtype=x.dtype).copy_(x)",
    "torch.arange(x.shape[2], dtype=x.dtype)[:, None] * x",
    "torch.linspace(0, 1, x.shape[3], dtype=x.dtype) * x",
    "torch.eye(x.shape[2], dtype=x.dtype).sum() * x",
    "nn.Parameter(torch.ones(4, 1, 1, dtype=x.dtype)) * x",
    "nn.Parameter(x.detach()) * 2",
    "nn.Upsample(scale_factor=2)(x)",
    "nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)).double()(x)",
    "nn.Conv2d(4, 2, 1).double().eval()(x)",
    "nn.BatchNorm2d(4).double().eval()(x)",
    "nn.Dropout(0.5).eval()(x)",
    "torch.overrides.is_tensor_like(x)",
    "torch.testing.assert_close(x, x) or 1",
    "torch.allclose(x, x)",
    "torch.equal(x, x)",
    "torch.manual_seed(0) and F.dropout(x, 0.5)",
    "x.__class__.__name__ and 1",
    "x.mT.shape",
    "x.real * 2",
    "x.grad",
    "x._version and 1",
    "x.is_shared() or 1",
    "x.retain_grad() or 1",
    "x.is_same_size(x)",
    "x.scatter_reduce(2, torch.zeros_like(x, dtype=torch.long), x, 'sum')",
    "x.data * 2",
    "x.detach().numpy().mean() * x",
    "(x > 0).sum().item() * x",
    "x[x > 0].sum()",
    "x[x > 0].mean() if (x > 0).any() else x.sum()",
    'x.to(torch.device("cpu")).sum()',
    'dict(a=x)["a"] * 2',
    '{**{"a": x}}["a"] * 2',
    "[*x][0]",
    "(lambda a, b: a + b)(*x)",
    "x.type(torch.float32).double()",
    "x.type()",
    'x.type("torch.FloatTensor").double()',
    "x.long().double()",
    'torch._assert(bool((x == x).all()), "no") or x',
    "torch.nonzero(x > 10).shape",
    "torch.where(x > 0)[0].shape",
    "x.unsafe_chunk(2, 2)[0]",
    "x.unsafe_split(3, 2)[0]",
    "x.vsplit(2)[0]",
    "x.hsplit(2)[0]",
    "x.dsplit(2)[0]",
    "x.tensor_split(3, 2)[1]",
    "x.select_scatter(torch.zeros_like(x[:, 0]), 1, 0)",
    "x.slice_scatter(torch.zeros_like(x[:, :, 1:3]), 2, 1, 3)",
    "x.diagonal_scatter(torch.zeros_like(x.diagonal(0, 2, 3)), 0, 2, 3)",
    "x.index_put((torch.tensor([0]), torch.tensor([1])), torch.zeros((), dtype=x.dtype))",
    "x.masked_scatter(x > 0, x * 2)",
    "x.clone().index_fill_(2, torch.tensor([1]), 0.0)",
    "x.clone().scatter_(2, torch.zeros_like(x, dtype=torch.long), 1.0)",
    "x.clone().masked_fill_(x > 0, 0.0)",
    "x.clone().clamp_(0, 1)",
    "x.clone().uniform_()",
    "x.clone().normal_()",
    "x.clone().random_(10)",
    "x.clone().bernoulli_(0.5)",
    "x.clone().exponential_()",
    "x.clone().geometric_(0.5)",
    "x.clone().cauchy_()",
    "x.clone().log_normal_()",
    "torch.randperm(x.shape[2])[:2].shape",
    "x[:, torch.randperm(x.shape[1])]",
    "x[:, :, torch.randperm(x.shape[2])]",
    "torch.multinomial(x.abs().mean((2, 3)), 2).shape",
    "torch.randint(0, 5, x.shape).double() + x",
    "torch.randint_like(x, 5) + x",
    "torch.rand(x.shape, dtype=x.dtype) + x",
    "torch.poisson(x.abs())",
    "torch.cdist(x.flatten(2), x.flatten(2))",
    "torch.corrcoef(x.flatten(1))",
    "F.embedding(torch.zeros(2, dtype=torch.long), x[0, 0])",
    "F.grid_sample(x, torch.zeros(2, 4, 4, 2, dtype=x.dtype), align_corners=False)",
    "F.affine_grid(torch.eye(2, 3, dtype=x.dtype).expand(2, 2, 3), x.shape, align_corners=False).sum() + x",
    "F.ctc_loss(x.flatten(2).permute(2, 0, 1).log_softmax(2), torch.ones(2, 3, dtype=torch.long), torch.full((2,), 48), torch.full((2,), 3))",
    "F.fold(F.unfold(x, 2, stride=2), x.shape[2:], 2, stride=2)",
    "F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)",
    "F.local_response_norm(x, 3)",
    "F.threshold(x, 0.1, 0.0)",
    "F.glu(x, 1)",
    "F.gumbel_softmax(x, dim=1)",
    "F.pairwise_distance(x, x * 2)",
    "F.triplet_margin_loss(x, x * 2, x * 3)",
    "F.kl_div(x.log_softmax(1), x.softmax(1), reduction='batchmean')",
    "F.one_hot(x.argmax(1), 4).double() + x.mean()",
]


def answer(expression, x):
    torch.manual_seed(2)
    found = eval(compile(expression, expression, "eval"), {**KNOWN, "x": x})
    return whole_tensor(found) if isinstance(found, SpatialTensor) else found


def is_same(found, expected):
    if isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor):
        found, expected = found.detach(), expected.detach()
        bound = (
            1e-6 if expected.dtype == torch.float32 else 1e-2 if expected.dtype == torch.bfloat16 else 1e-9
        )
        alike = found.shape == expected.shape and found.dtype == expected.dtype
        return alike and torch.allclose(found, expected, bound, bound, equal_nan=True)
    if isinstance(found, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(is_same, found, expected))
    if isinstance(found, float):
        return abs(found - expected) <= 1e-9 * max(1, abs(expected))
    return found == expected


def answers(workers):
    """Return for each expression what is wrong: nothing, ``refused``, or the error."""
    mesh, verdicts = spatial_mesh(workers, (2,), 1), {}
    whole = torch.randn(2, 4, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for one in EXPRESSIONS:
        x = cut(whole, mesh)
        x.local = x.local.clone().requires_grad_()
        try:
            expected = answer(one, whole.clone().requires_grad_() * 1)
        except Exception as error:  # noqa: BLE001 - what PyTorch refuses on one worker, whatever it raises
            expected = error
        try:
            found = answer(one, x * 1)
            verdicts[one] = "" if is_same(found, expected) else f"{found} instead of {expected}"
        except UserError:
            verdicts[one] = "refused"
        except Exception as error:  # noqa: BLE001 - an error is one here if there is none on one worker
            verdicts[one] = "" if isinstance(expected, Exception) else repr(error)
    return verdicts


@pytest.mark.filterwarnings("ignore")  # PyTorch's own
def test_as_on_one_worker_or_refused():
    verdicts = run_ranks(answers, 2)
    assert verdicts[0] == verdicts[1]
    assert not {one: said for one, said in verdicts[0].items() if said not in ("", "refused")}
    assert sum(said == "refused" for said in verdicts[0].values()) < 0.15 * len(EXPRESSIONS)
