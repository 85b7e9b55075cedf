r"""The numbers that gradients travel as, between workers that take other microbatches.

Every node of the canonical sum is rounded to the wire's format when it is made, whoever makes it, also on one worker. So what is
sent of any node is that node, none is rounded on the way, and the bits do not depend on the number of workers:

    leaf   0     1     2     3          r(x)  x in the wire's format
           r     r     r     r
            \   /       \   /           r( r(0) + r(1) ),  r( r(2) + r(3) )
              r           r
                \       /               r( r( .. ) + r( .. ) ): the gradient that all workers use
                    r

    fp32   as they are                                                                                          4 bytes
    bf16   8 bits of fraction, to nearest, ties to even                                                         2 bytes
    int8   blocks of 32 neighbours in a parameter's memory: an exponent, and of each the integer -127 .. 127    1.03 bytes
           of steps of 2 ** exponent, up or down by chance, so that the expected number is the one that was rounded

Steps of a power of two (as in the MXINT8 format) cost up to one bit of a scale that fits exactly, and in return nothing else is
ever rounded: what has been rounded is a whole number of steps, and of the finer ones too that a block without its largest number gets.

References:
    OCP Microscaling Formats (MX) Specification 1.0, 2023, section 5.
    Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators, 2014 (SplitMix64).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from ziggurat.parallel.collectives.canonical import Span

BLOCK = 32  # numbers with one exponent
LARGEST_EXPONENT = 121  # 127 * 2 ** 121 is a float32, of 127 * 2 ** 122 nothing is
SMALLEST_EXPONENT = -126  # that of the smallest normal float32: steps are never subnormal
NOT_FINITE = -128  # in the place of an exponent

GOLDEN = 0x9E3779B97F4A7C15  # of SplitMix64, as the two below
FIRST, SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
NAN_BITS = 0x7FC00000


class Wire:
    """Numbers that travel as they are; the formats below are narrower.

    Attributes:
        name: As a config has it.
        block: So many neighbours are rounded together, and travel together.
        is_narrow: Whether anything is rounded.
    """

    name = "fp32"
    block = 1
    is_narrow = False

    def round_(self, values: Tensor, chance: Tensor | None) -> None:
        """Round numbers to the format, in place.

        Args:
            values: float32, flat, whole blocks.
            chance: For each block the state of its generator; see `Chance`.
        """

    def size(self, count: int) -> int:
        """Return the elements of the message that carries so many numbers."""
        return count

    def pack(self, values: Tensor) -> Tensor:
        """Return the message of flat numbers, which have been rounded."""
        return values

    def unpack(self, message: Tensor) -> Tensor:
        """Return the numbers of a message."""
        return message

    def room(self, count: int, like: Tensor) -> Tensor:
        """Return memory for the message of so many numbers, which are like a tensor's."""
        return like.new_empty(self.size(count), dtype=torch.uint8 if self.is_narrow else like.dtype)


class BrainFloat(Wire):
    """bfloat16, rounded to nearest."""

    name = "bf16"
    is_narrow = True

    def round_(self, values: Tensor, chance: Tensor | None) -> None:
        """Round numbers to nearest, ties to even; what is beyond 3.39e38 becomes infinite."""
        values.copy_(values.to(torch.bfloat16))

    def size(self, count: int) -> int:
        """Return two bytes for each number."""
        return 2 * count

    def pack(self, values: Tensor) -> Tensor:
        """Return the upper two bytes of each number.

        Example:
            >>> wire = BrainFloat()
            >>> wire.unpack(wire.pack(torch.tensor([1.5, -0.25]))).tolist()
            [1.5, -0.25]
        """
        return values.to(torch.bfloat16).view(torch.uint8)

    def unpack(self, message: Tensor) -> Tensor:
        """Return the numbers."""
        return message.view(torch.bfloat16).float()


class Blocks(Wire):
    """Integers of 8 bits, with one exponent for each block.

    A block with a number that is not finite, or beyond ``127 * 2 ** 121`` (3.38e38), is not a number as a whole.
    """

    name = "int8"
    block = BLOCK
    is_narrow = True

    def round_(self, values: Tensor, chance: Tensor | None) -> None:
        """Round numbers to whole steps of their block, up or down so that the expectation is the number."""
        assert chance is not None  # of whoever rounds to blocks
        blocks = values.view(-1, BLOCK)
        exponents = _exponents(blocks)
        steps = _steps(blocks, exponents)
        steps.add_(_between_0_and_1(chance)).floor_().clamp_(-127, 127)
        blocks.copy_(steps.mul_(_scales(exponents)))

    def size(self, count: int) -> int:
        """Return one byte for each number, and one for each block."""
        return count // BLOCK * (BLOCK + 1)

    def pack(self, values: Tensor) -> Tensor:
        """Return of each block its integers and its exponent.

        Example:
            >>> wire, values = Blocks(), torch.arange(-31.0, 33.0, 2.0)
            >>> message = wire.pack(values)
            >>> len(message), torch.equal(wire.unpack(message), values)
            (33, True)
        """
        blocks = values.view(-1, BLOCK)
        exponents = _exponents(blocks)
        is_bad = exponents > LARGEST_EXPONENT
        message = torch.empty((len(blocks), BLOCK + 1), dtype=torch.int8, device=values.device)
        message[:, :BLOCK] = _steps(blocks, exponents).masked_fill_(is_bad, 0.0)
        message[:, BLOCK:] = exponents.masked_fill(is_bad, NOT_FINITE)
        return message.view(torch.uint8).flatten()

    def unpack(self, message: Tensor) -> Tensor:
        """Return the numbers."""
        blocks = message.view(torch.int8).view(-1, BLOCK + 1)
        exponents = blocks[:, BLOCK:].int()
        scales = _scales(exponents.masked_fill(exponents == NOT_FINITE, LARGEST_EXPONENT + 1))
        return (blocks[:, :BLOCK].float() * scales).flatten()


def _exponents(blocks: Tensor) -> Tensor:
    """Return the smallest exponent with which 127 steps reach a block's largest number, int32, shape ``(n, 1)``.

    Of a number ``1.f * 2 ** E`` it is ``E - 6``, and one more where the fraction is above that of 127. What is not finite is
    above the largest exponent.
    """
    bits = (blocks.view(torch.int32) & 0x7FFFFFFF).amax(1, keepdim=True).clamp_(max=0x7F800000)
    above_127 = 0x7FFFFF - 0x7E0000  # carries into the exponent's bits
    return (((bits + above_127) >> 23) - 133).clamp_(min=SMALLEST_EXPONENT)


def _steps(blocks: Tensor, exponents: Tensor) -> Tensor:
    """Return numbers in units of their block's step."""
    inverse = (127 - exponents.clamp(max=LARGEST_EXPONENT)) << 23  # the bits of 2 ** -exponent
    return blocks * inverse.view(torch.float32)


def _scales(exponents: Tensor) -> Tensor:
    """Return the steps of blocks; not a number where the exponent is too large."""
    bits = ((exponents + 127) << 23).masked_fill(exponents > LARGEST_EXPONENT, NAN_BITS)
    return bits.view(torch.float32)


def _between_0_and_1(chance: Tensor) -> Tensor:
    """Return 32 random numbers for each block, odd multiples of 2 ** -17: four of each output of SplitMix64.

    Args:
        chance: The generator's states, int64, shape ``(n,)``.
    """
    counts = torch.arange(BLOCK // 4, dtype=torch.int64, device=chance.device)
    z = chance.unsqueeze(1) + counts * (GOLDEN - (1 << 64))
    z ^= (z >> 30) & ((1 << 34) - 1)  # shifts are logical: what the sign has filled in is taken away
    z *= FIRST
    z ^= (z >> 27) & ((1 << 37) - 1)
    z *= SECOND
    z ^= (z >> 31) & ((1 << 33) - 1)
    return z.view(torch.int16).float().mul_(2.0**-16).add_(0.5 + 2.0**-17)


WIRES: dict[str, Wire] = {wire.name: wire for wire in (Wire(), BrainFloat(), Blocks())}
FP32 = WIRES["fp32"]


def chances(numbers: Sequence[int], sizes: Sequence[int], total: int) -> Tensor:
    """Return the states from which the blocks of some parameters start, before the node's is added: int64, shape ``(n,)``.

    Args:
        numbers: Of the parameters, in the order in which their blocks follow one another.
        sizes: Blocks of each.
        total: ``n``; those beyond the parameters' are anything.
    """
    states = torch.zeros(total, dtype=torch.int64)
    start = 0
    for number, size in zip(numbers, sizes, strict=True):
        counts = torch.arange(size, dtype=torch.int64) * (BLOCK // 4)
        states[start : start + size] = counts * (GOLDEN - (1 << 64)) + key_of(number)
        start += size
    return states


def key_of(*numbers: int) -> int:
    """Return a random number of 64 bits, with a sign, that some integers give.

    Example:
        >>> key_of(1, 2) == key_of(1, 2), key_of(1, 2) == key_of(2, 1)
        (True, False)
    """
    digest = hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class Rounding:
    """Rounds the nodes of one bucket in one step.

    Args:
        wire: The format.
        states: Of the blocks of the bucket, as `chances` has them; None where nothing is left to chance.
        key: Of the step.
        part: Which of the parts of the same microbatches this worker has.
    """

    def __init__(self, wire: Wire, states: Tensor | None, key: tuple[int, ...], part: int) -> None:
        self.wire, self.states, self.key, self.part = wire, states, key, part

    def node(self, span: Span, values: Tensor, start: int = 0) -> None:
        """Round a node, or a slice of it, in place.

        Args:
            span: Of the node.
            values: Flat, whole blocks.
            start: Where in the bucket they are.
        """
        self._round(values, start, span, self.part)

    def total(self, span: Span, values: Tensor, start: int = 0) -> None:
        """Round what parts have given together: the same on all workers that had one."""
        self._round(values, start, span, -1)

    def _round(self, values: Tensor, start: int, span: Span, part: int) -> None:
        if self.states is None:
            self.wire.round_(values, None)
            return
        first = start // self.wire.block
        states = self.states[first : first + len(values) // self.wire.block]
        self.wire.round_(values, states + key_of(*self.key, *span, part))
