"""Reducing a program that fails to a few lines that fail in the same way.

Tried again and again, until nothing can be left out: only one output; a statement less (what used its variable takes another of
the same shape, or goes, too); smaller images; fewer images; images in plain memory; a line less of a statement of several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from fuzz.judge import Finding, shortened
from fuzz.program import INPUT, Program, Statement
from fuzz.rehearsal import shapes_of

MOST_TRIES = 250
Fails = Callable[[Program], bool]  # in the same way


def shrink(program: Program, fails: Fails, most_tries: int = MOST_TRIES) -> Program:
    """Return a smaller program that still fails.

    Args:
        program: It fails.
        fails: Whether a program fails in the same way.
        most_tries: How often that is asked.
    """
    asked = {program.source()}
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for candidate in candidates(program):
            text = candidate.describe()
            if text in asked:
                continue
            if len(asked) > most_tries:
                return program
            asked.add(text)
            if fails(candidate):
                program, is_smaller = candidate, True
                break
    return program


def same_way(found: Finding) -> Callable[[Finding], bool]:
    """Return whether another finding is a fault of the same kind."""

    def is_same(other: Finding) -> bool:
        if other.verdict != found.verdict:
            return False
        if found.verdict == "wrong":
            return other.error > min(1e-4, found.error / 100)
        return found.verdict == "hung" or shortened(other.why, 60) == shortened(found.why, 60)

    return is_same


def candidates(program: Program) -> Iterator[Program]:
    """Yield smaller programs, those that leave out most first."""
    yield from _fewer_outputs(program)
    yield from _fewer_statements(program)
    yield from _simpler_images(program)


def _fewer_outputs(program: Program) -> Iterator[Program]:
    """Yield programs that return one variable, also one in the middle: what comes after it goes."""
    if len(program.outputs) > 1:
        for name in program.outputs:
            yield without_dead(replace(program, outputs=(name,), form="tensor"))
    else:
        targets = [one.target for one in program.statements if one.target]
        for number, name in enumerate(targets[:-1]):
            end = next(i for i, one in enumerate(program.statements) if one.target == targets[number + 1])
            kept = program.statements[:end]
            if len(kept) < len(program.statements):
                yield without_dead(replace(program, statements=kept, outputs=(name,), form="tensor"))


def _fewer_statements(program: Program) -> Iterator[Program]:
    shapes = shapes_of(program)
    for place in reversed(range(len(program.statements))):
        one = program.statements[place]
        rest = (*program.statements[:place], *program.statements[place + 1 :])
        if not one.target:
            yield without_dead(replace(program, statements=rest))
            continue
        earlier = [INPUT, *(other.target for other in program.statements[:place] if other.target)]
        shape = shapes.get(one.target, ())
        alike = [name for name in earlier if len(shapes.get(name, ())) == len(shape)]
        for name in sorted(alike, key=lambda name: (shapes.get(name) != shape, name not in one.reads)):
            yield without_dead(_with_another(program, rest, place, one.target, name))
        if one.target not in program.outputs:  # what uses it goes with it
            gone, kept = {one.target}, []
            for other in rest:
                if gone & set(other.reads):
                    gone |= {other.target} - {""}
                else:
                    kept.append(other)
            if not gone & set(program.outputs):
                yield without_dead(replace(program, statements=tuple(kept)))


def _with_another(program: Program, rest: tuple[Statement, ...], place: int, old: str, new: str) -> Program:
    statements = tuple(one.renamed(old, new) if i >= place else one for i, one in enumerate(rest))
    outputs = tuple(dict.fromkeys(new if name == old else name for name in program.outputs))
    return replace(program, statements=statements, outputs=outputs)


def without_dead(program: Program) -> Program:
    """Return the program without variables that nothing uses, so far as the statement that makes one does nothing else."""
    statements = list(program.statements)
    for place in reversed(range(len(statements))):
        one = statements[place]
        used = {name for other in statements[place + 1 :] for name in other.reads} | set(program.outputs)
        if one.target and one.target not in used and "\n" not in one.code and "inplace" not in one.code:
            del statements[place]
    return replace(program, statements=tuple(statements))


def _simpler_images(program: Program) -> Iterator[Program]:
    if program.channels_last:
        yield replace(program, channels_last=False)
    count, channels, *extents = program.shape
    for fewer in range(1, count):
        yield replace(program, shape=(fewer, channels, *extents))
    for d, extent in enumerate(extents):
        for smaller in dict.fromkeys((4, 5, 6, extent // 2, extent - 1)):
            if 0 < smaller < extent:
                yield replace(program, shape=(count, channels, *extents[:d], smaller, *extents[d + 1 :]))
