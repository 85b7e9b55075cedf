"""Other products: by letters, of tensors' dims, of pairs of vectors; and what is computed of each matrix.

All but the last are the sums of products of `matrix`, or made of them.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ziggurat.parallel.spatial.layout import plain
from ziggurat.parallel.spatial.memory import make_meta
from ziggurat.parallel.spatial.operations.gathering import of_each, run_whole, with_locals
from ziggurat.parallel.spatial.operations.matrix import contract
from ziggurat.parallel.spatial.table import Call, operation, place_of, views_on_meta
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather
from ziggurat.torch_internals.tensors import memory_key


@operation("moments", "einsum", views=views_on_meta)
def _einsum(call: Call) -> Any:
    equation, operands = call.args[0], call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    letters, result = parse_equation(equation, [operand.dim() for operand in operands])
    for names in letters:
        if len(set(names)) != len(names):
            raise call.unsupported(
                f"the equation '{equation}' has a letter twice in one operand",
                "take its diagonal(...) before",
            )
    compute = _keeping_as_one_worker(operands, lambda *local: torch.einsum(equation, *local))
    return contract(operands, letters, result, compute, call.mesh, call.name)


def _keeping_as_one_worker(
    operands: Sequence[Tensor], compute: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """Return a product of parts that keeps copies where that of the wholes does: the originals may be changed in place."""
    needed = [operand.requires_grad for operand in operands]
    if not (torch.is_grad_enabled() and any(needed)):
        return compute
    by_wholes = _kept(compute, [make_meta(*place_of(one), one.dtype) for one in operands], needed)

    def compute_parts(*parts: Tensor) -> Tensor:
        by_parts = _kept(compute, [make_meta(*place_of(one), one.dtype) for one in parts], needed)
        return compute(
            *(
                part.clone() if kept and not kept_whole else part
                for part, kept, kept_whole in zip(parts, by_parts, by_wholes, strict=True)
            )
        )

    return compute_parts


def _kept(compute: Callable[..., Tensor], operands: Sequence[Tensor], needed: Sequence[bool]) -> list[bool]:
    """Return whether autograd keeps the memory of each operand (meta, one memory each) until its backward."""
    kept: set[int] = set()

    def note(tensor: Tensor) -> Tensor:
        kept.add(memory_key(tensor))
        return tensor

    leaves = [one.requires_grad_(need) for one, need in zip(operands, needed, strict=True)]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compute(*leaves)
    return [memory_key(one) in kept for one in leaves]


def parse_equation(equation: str, num_dims: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Return the letters of each operand of an einsum, and of its result; dims of an ellipsis are ``.0``, ``.1`` and so on.

    The last dims that ellipses stand for are the same in all operands. Where the equation does not name the result, that
    has the dims of the ellipsis, and each letter that stands once, in the order of the alphabet.

    Example:
        >>> parse_equation("...ij,jk", [3, 2])
        ([['.0', 'i', 'j'], ['j', 'k']], ['.0', 'i', 'k'])
    """
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    hidden = [count - len(term.replace("...", "")) for term, count in zip(terms, num_dims, strict=True)]
    most = max((count for term, count in zip(terms, hidden, strict=True) if "..." in term), default=0)
    dots = [f".{number}" for number in range(most)]

    def read(term: str, count: int) -> list[str]:
        before, has_dots, after = term.partition("...")
        return [*before, *(dots[most - count :] if has_dots else ()), *after]

    letters = [read(term, count) for term, count in zip(terms, hidden, strict=True)]
    if arrow:
        return letters, read(right, most)
    once = [name for name in string.ascii_letters if sum(term.count(name) for term in terms) == 1]
    return letters, [*dots, *sorted(once)]


@operation("moments", "tensordot", views=views_on_meta)
def _tensordot(call: Call) -> Any:
    bound = call.bind("a b dims", dims=2)
    one, other, dims = bound["a"], bound["b"], bound["dims"]
    if isinstance(dims, int):
        dims = (list(range(one.dim() - dims, one.dim())), list(range(dims)))
    first, second = (
        [d % t.dim() for d in _numbers(given)] for t, given in zip((one, other), dims, strict=True)
    )
    left = [f"a{d}" for d in range(one.dim())]
    right = [f"b{d}" for d in range(other.dim())]
    for d, e in zip(first, second, strict=True):
        right[e] = left[d]
    result = [name for name in left if name not in right] + [name for name in right if name not in left]
    compute = _keeping_as_one_worker([one, other], lambda a, b: torch.tensordot(a, b, dims=(first, second)))
    return contract([one, other], [left, right], result, compute, call.mesh, call.name)


def _numbers(given: Any) -> list[int]:
    return [given] if isinstance(given, int) else [int(d) for d in given]


@operation("moments", "inner")
def _inner(call: Call) -> Any:
    one, other = call.bind("input other").values()
    return one * other if min(one.dim(), other.dim()) == 0 else torch.tensordot(one, other, dims=([-1], [-1]))


@operation("moments", "outer", "ger")
def _outer(call: Call) -> Any:
    one, other = call.bind("input vec2").values()
    return one.unsqueeze(1) * other.unsqueeze(0)


@operation("moments", "kron")
def _kron(call: Call) -> Any:
    one, other = call.bind("input other").values()
    n = max(one.dim(), other.dim())
    one, other = (t.reshape((1,) * (n - t.dim()) + tuple(t.shape)) for t in (one, other))
    opened = [part for d in range(n) for part in (d, None)]
    paired = (
        one[tuple(slice(None) if part is not None else None for part in opened)]
        * other[tuple(None if part is not None else slice(None) for part in opened)]
    )
    return paired.reshape([a * b for a, b in zip(one.shape, other.shape, strict=True)])


@operation("moments", "vdot", "linalg_vecdot")
def _vecdot(call: Call) -> Any:
    bound = call.bind("x y dim", dim=-1)
    return (bound["x"].conj() * bound["y"]).sum(bound["dim"])


@operation("moments", "linalg_matmul")
def _linalg_matmul(call: Call) -> Any:
    return torch.matmul(*call.args, **call.named)


@operation("moments", "linalg_multi_dot", "chain_matmul")
def _multi_dot(call: Call) -> Any:
    matrices = call.args if call.name == "chain_matmul" else call.args[0]
    return functools.reduce(torch.matmul, matrices)


@operation("moments", "addmm", "addmv", "baddbmm", "addbmm", "addr")
def _addmm(call: Call) -> Any:
    """Add a product of two matrices (of all of a batch: `addbmm`) to a tensor."""
    bound = call.bind("input one other", beta=1, alpha=1)
    added, *pair = (value for name, value in bound.items() if name not in ("beta", "alpha"))
    product = torch.outer(*pair) if call.name == "addr" else torch.matmul(*pair)
    product = product.sum(0, dtype=product.dtype) if call.name == "addbmm" else product
    alpha, beta = bound["alpha"], bound["beta"]
    if not (product.is_floating_point() or product.is_complex()):
        alpha, beta = int(alpha), int(beta)  # whole numbers stay such
    product = product if alpha == 1 else alpha * product
    if beta == 0:
        return product
    return product + (added if beta == 1 else beta * added)


@operation("moments", "bilinear")
def _bilinear(call: Call) -> Any:
    bound = call.bind("input1 input2 weight bias", bias=None)
    out = torch.einsum("...i,oij,...j->...o", bound["input1"], bound["weight"], bound["input2"])
    return out if bound["bias"] is None else out + bound["bias"]


@operation("gather", "cdist")
def _cdist(call: Call) -> Any:
    """Compute the distances of pairs: the first's rows stay where they are, all of the other's are needed."""
    bound = call.bind("x1 x2 p compute_mode", p=2.0, compute_mode="use_mm_for_euclid_dist_if_necessary")
    points = [bound["x1"], bound["x2"]]
    compute = _keeping_as_one_worker(
        points, lambda a, b: torch.cdist(a, b, bound["p"], bound["compute_mode"])
    )
    pair = [gather(t, call.name, only=[t.dim() - 1]) if isinstance(t, SpatialTensor) else t for t in points]
    heads = max(t.dim() for t in pair) - 2
    left, right = ([f"b{i}" for i in range(heads - t.dim() + 2, heads)] for t in pair)
    return contract(
        pair, [[*left, "m", "k"], [*right, "n", "k"]], [*(f"b{i}" for i in range(heads)), "m", "n"],
        compute, call.mesh, call.name,
    )  # fmt: skip


@operation(
    "gather", "inverse", "det", "slogdet", "logdet", "svd", "pinverse", "matrix_exp", "matrix_power", "cholesky",
    "linalg_inv", "linalg_inv_ex", "linalg_det", "linalg_slogdet", "linalg_svd", "linalg_svdvals", "linalg_pinv",
    "linalg_matrix_exp", "linalg_matrix_power", "linalg_cholesky", "linalg_cholesky_ex", "linalg_eigh", "linalg_eigvalsh",
    "linalg_eig", "linalg_eigvals", "linalg_qr", "linalg_matrix_rank", "linalg_cond", "linalg_lu", "qr",
)  # fmt: skip
def _of_each_matrix(call: Call) -> Any:
    """Compute of each matrix of a batch: the last two dims are gathered, and are whole in what comes out."""
    x = call.args[0] if call.args else next(iter(call.named.values()))
    n = len(x.dims)
    x = gather(x, call.name, only=[n - 2, n - 1])

    def laid_out(result: Tensor) -> SpatialTensor:
        behind = result.shape[n - 2 :] if result.dim() >= n - 2 else ()
        return SpatialTensor(result, (*x.dims[: n - 2], *map(plain, behind)), x.mesh)

    return of_each(with_locals(call, lambda value: x.local), laid_out)


@operation(
    "gather", "linalg_solve", "linalg_lstsq", "linalg_solve_triangular", "cholesky_solve", "linalg_norm",
    "linalg_matrix_norm", "triangular_solve", "linalg_tensorsolve", "linalg_tensorinv", "lu_solve", "lobpcg",
    "nuclear_norm", "geqrf",
)  # fmt: skip
def _of_all(call: Call) -> Any:
    return run_whole(call)


@operation("gather", "cross", "linalg_cross")
def _cross(call: Call) -> Any:
    """Compute the cross products along a dim of three."""
    bound = call.bind("input other dim", dim=None)
    one, other = bound["input"], bound["other"]
    shape = torch.broadcast_shapes(one.shape, other.shape)
    default = next(d for d, size in enumerate(shape) if size == 3) if call.name == "cross" else -1
    d = (default if bound["dim"] is None else bound["dim"]) % len(shape)
    after, before = ([t.expand(shape).roll(shift, d) for t in (one, other)] for shift in (-1, 1))
    return after[0] * before[1] - before[0] * after[1]
