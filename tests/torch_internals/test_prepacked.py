"""Convolutions with packed weights: the bits of PyTorch's own, whatever the geometry, and those of the layer's present weights."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ziggurat.torch_internals.convolutions import right_convolution_gradients
from ziggurat.torch_internals.machine import cpu_has_bf16_units
from ziggurat.torch_internals.prepacked import IN_BLOCKS, PackedConvolutions, convolve

pytestmark = pytest.mark.skipif(
    not cpu_has_bf16_units(), reason="nothing is packed without units for bfloat16"
)
CHANNELS = (3, 16, 96)
GEOMETRIES = list(
    itertools.product((1, 3, 5), (1, 2), (1, 2), (False, True))
)  # kernel, stride, dilation, bias
ROWS = ((7, 7), (13, 50), (1, 9), (33, 2))


def small_network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(32, 8, 1, bias=False)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def images(channels: int = 16, rows: int = 20, columns: int = 24) -> Tensor:
    return torch.randn(2, channels, rows, columns).contiguous(memory_format=torch.channels_last)


def compute(network: nn.Module, batch: Tensor) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), right_convolution_gradients():
        result: Tensor = network(batch)
        return result


def same(one: Tensor, other: Tensor) -> bool:
    return one.stride() == other.stride() and one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("outputs", [1, 17, 64])
def test_the_bits_are_those_of_pytorch_in_every_geometry(outputs: int) -> None:
    torch.manual_seed(outputs)
    num_packed = 0
    for channels, (kernel, stride, dilation, bias) in itertools.product(CHANNELS, GEOMETRIES):
        layer = nn.Conv2d(
            channels, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=bias
        ).to(memory_format=torch.channels_last)
        packed = PackedConvolutions(layer)
        batches = [images(channels, rows, columns) for rows, columns in ROWS]
        expected = [compute(layer, batch) for batch in batches]
        with packed.used():
            for _ in range(3):  # as it is, packed, with what is packed
                found = [compute(layer, batch) for batch in batches]
                assert all(map(same, found, expected)), (channels, kernel, stride, dilation)
            num_packed += packed.num_bytes > 0
    assert num_packed == len(CHANNELS) * len(GEOMETRIES), "each was packed for one of the shapes at least"


def test_a_processor_on_which_packed_weights_give_other_bits_packs_nothing() -> None:
    """One unit in the last place of one number is enough; the other layer stays packed."""
    network, batch = small_network(), images()
    calls: list[nn.Conv2d] = []

    def other_bits(layer: nn.Conv2d, batch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.append(layer)
        out = convolve(layer, batch, weight, bias)
        if layer is network[0]:
            out[0, 0, 0, 0] = torch.nextafter(out[0, 0, 0, 0], torch.tensor(9.0, dtype=out.dtype))
        return out

    expected = compute(network, batch)
    packed = PackedConvolutions(network, packing=IN_BLOCKS._replace(convolve=other_bits))
    with packed.used():
        assert all(same(compute(network, batch), expected) for _ in range(4))
    assert [calls.count(layer) for layer in (network[0], network[2])] == [1, 3]


@torch.no_grad()
def add(network: nn.Module) -> None:
    network[0].weight.add_(1)


@torch.inference_mode()
def double(network: nn.Module) -> None:
    network[0].bias.mul_(2)


def replace(network: nn.Module) -> None:
    network[2].weight = nn.Parameter(torch.randn(8, 32, 1, 1))


def lay_elsewhere(network: nn.Module) -> None:
    network[2].weight.data = torch.randn(8, 32, 1, 1)


def load(network: nn.Module) -> None:
    network.load_state_dict({name: value + 0.5 for name, value in network.state_dict().items()})


def learn(network: nn.Module) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
    network(images()).square().mean().backward()
    optimizer.step()


@torch.inference_mode()
def make_uncounted(network: nn.Module) -> None:
    network[0].weight = nn.Parameter(torch.randn(32, 16, 3, 3), requires_grad=False)


@pytest.mark.parametrize("change", [add, double, replace, lay_elsewhere, load, make_uncounted])
def test_weights_that_change_are_packed_anew(change: Callable[[nn.Module], None]) -> None:
    network, batch = small_network(), images()
    packed = PackedConvolutions(network)
    with packed.used():
        before = [compute(network, batch) for _ in range(3)][-1]
        assert packed.num_bytes
        change(network)
        found = [compute(network, batch) for _ in range(2)]
    now = compute(network, batch)
    assert all(same(one, now) for one in found)
    assert not torch.equal(now, before)


def test_nothing_is_packed_after_the_block() -> None:
    """A fused optimizer changes weights, and PyTorch does not count it."""
    network, batch = small_network(), images()
    packed = PackedConvolutions(network)
    for _ in range(2):
        learn(network)
        expected = compute(network, batch)
        with packed.used():
            assert all(same(compute(network, batch), expected) for _ in range(3))
            assert packed.num_bytes
        assert packed.num_bytes == 0


def test_what_is_no_inference_in_bfloat16_computes_as_before() -> None:
    network, batch = small_network(), images()
    packed = PackedConvolutions(network)
    for _ in range(3):
        with packed.used():
            assert network(batch).dtype == torch.float32
            with torch.autocast("cpu", torch.bfloat16):
                assert network(batch).requires_grad
            with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
                network(batch.contiguous())  # rows together: PyTorch decides how it computes
        assert not any("_conv_forward" in vars(layer) for layer in network.modules()), "as it was"
    assert packed.num_bytes == 0


def test_threads_may_share_what_is_packed() -> None:
    network = small_network()
    batches = [images(rows=rows) for rows in (8, 9, 10, 11)]
    expected = [compute(network, batch) for batch in batches]
    packed, wrong = PackedConvolutions(network), list[int]()

    def run(number: int) -> None:
        torch.set_num_threads(torch.get_num_threads())
        for _ in range(10):
            with packed.used():
                if not same(compute(network, batches[number]), expected[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    with packed.used():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert packed.num_bytes
    assert not wrong


def test_packed_weights_are_bounded() -> None:
    network = small_network()
    packed = PackedConvolutions(network, most_bytes=50_000)
    with packed.used():
        for rows in range(8, 40):
            batch = images(rows=rows)
            assert same(compute(network, batch), compute(network, batch))
            assert packed.num_bytes <= 50_000


def test_what_has_no_room_is_not_packed_again_and_again() -> None:
    """A round of shapes that are more than the room: some stay, and none is packed for nothing. A shape that comes anew takes the place of old ones."""
    network = small_network()
    packed = PackedConvolutions(network, most_bytes=50_000)
    round_of_shapes = [images(rows=rows) for rows in (8, 9, 10, 11, 12, 13, 14, 15)]
    with packed.used():
        counts = []
        for _ in range(6):
            for batch in round_of_shapes:
                compute(network, batch)
            counts.append(packed.num_packings)
        assert counts[0] == 0
        assert counts[1] > 2
        assert counts[1:] == [counts[1]] * 5
        held = packed.num_bytes
        new = images(rows=20)
        for _ in range(3):
            compute(network, new)
        assert packed.num_packings == counts[1] + 2
        assert held < packed.num_bytes + 20_000 <= 70_000


def test_shapes_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ziggurat.torch_internals.prepacked.MOST_KEYS", 20)
    network = small_network()
    packed = PackedConvolutions(network)
    with packed.used():
        for rows in range(8, 60):
            compute(network, images(rows=rows))
            assert len(packed._seen) <= 20


def test_bytes_are_those_that_onednn_has_taken() -> None:
    """By the C library's count of its memory, with what fills up blocks: 33 outputs take as much as 48."""
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("only glibc counts the bytes that it has given")
    torch.manual_seed(0)
    layers = [nn.Conv2d(96, 33, 3, padding=1), nn.Conv2d(33, 300, 5, padding=2), nn.Conv2d(300, 200, 3)]
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    batch = images(96, 17, 17)
    packed = PackedConvolutions(network)
    with packed.used():
        for _ in range(3):
            compute(network, batch)
        counted, before = packed.num_bytes, bytes_of_malloc()
    freed = before - bytes_of_malloc()
    assert packed.num_packings == 3
    assert counted > 1.1 * sum(layer.weight.numel() * 2 for layer in layers)
    assert abs(freed - counted) < 0.01 * counted


class _Memory(ctypes.Structure):
    """What ``mallinfo2`` returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def bytes_of_malloc() -> int:
    """Return the bytes that the C library has given and not got back."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Memory
    found = library.mallinfo2()
    return int(found.uordblks + found.hblkhd)
