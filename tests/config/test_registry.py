"""Names are given once, and entry points are found."""

from importlib.metadata import EntryPoint

import pytest

from ziggurat.config.registry import Registry
from ziggurat.errors import UserError


class One: ...


class Other: ...


def test_a_name_that_is_taken_twice_is_an_error_that_names_both():
    registry = Registry("task", "example.none")
    assert registry.register("count", One) is One
    registry.register("count", One)
    with pytest.raises(UserError) as error:
        registry.register("count", Other)
    (fault,) = error.value.faults
    assert all(word in fault for word in ("'count'", "One", "Other"))
    assert registry["count"] is One


def test_an_unknown_name_is_answered_with_the_nearest():
    registry = Registry("task", "example.none")
    registry.register("count", One)
    with pytest.raises(UserError, match=r"unknown task 'cuont': did you mean 'count'\?"):
        registry.find("cuont")


def test_entry_points_are_read_when_a_name_is_looked_for():
    point = EntryPoint("counter", "collections:Counter", "example.tasks")
    registry = Registry("task", "example.tasks", {"example.tasks": [point]}.__getitem__)
    registry.register("count", One)
    assert list(registry) == ["count", "counter"]
    with pytest.raises(UserError, match="entry point collections:Counter"):
        registry.register("counter", Other)
