"""What is changed for a while is changed once, for all who need it, and is as it was when nobody does."""

import threading

import pytest

from ziggurat.torch_internals.switches import Switch, Watch


def test_of_blocks_within_each_other_the_first_turns_it_on_and_the_last_off():
    happened = []
    switch = Switch(lambda: happened.append("on"), lambda: happened.append("off"))
    with switch.held():
        with switch.held():
            happened.append("inner")
        happened.append("outer")
    with switch.held():
        pass
    assert happened == ["on", "inner", "outer", "off", "on", "off"]


def test_an_error_turns_it_off():
    happened = []
    watch = Watch(lambda: happened.append("on"), lambda: happened.append("off"))
    with pytest.raises(ValueError, match="of the block"), watch.by(print):
        raise ValueError("of the block")
    assert happened == ["on", "off"]
    assert watch.watcher is None


def test_blocks_of_two_threads_overlap():
    """The one that was there first ends first: the change stays for the other."""
    happened = []
    switch = Switch(lambda: happened.append("on"), lambda: happened.append("off"))
    begun, ends = threading.Event(), threading.Event()

    def other():
        with switch.held():
            begun.set()
            assert ends.wait(60)

    with switch.held():
        thread = threading.Thread(target=other)
        thread.start()
        assert begun.wait(60)
    assert happened == ["on"]
    ends.set()
    thread.join()
    assert happened == ["on", "off"]


def test_each_thread_has_its_own_watchers_the_innermost_sees():
    watch = Watch(lambda: None, lambda: None)
    seen = []
    with watch.by(print):
        assert watch.watcher is print
        with watch.by(len):
            assert watch.watcher is len
        assert watch.watcher is print
        thread = threading.Thread(target=lambda: seen.append(watch.watcher))
        thread.start()
        thread.join()
    assert seen == [None]
    assert watch.watcher is None
