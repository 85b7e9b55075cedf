"""Looking for images that cannot be decoded ends at once where it is interrupted."""

import threading

import pytest

from ziggurat.data.decoding import spoiled_images


class Blocking:
    """A data set whose later images take as long as somebody waits for them."""

    def __init__(self):
        self.asked = []
        self.interrupted = threading.Event()

    def image(self, index):
        self.asked.append(index)
        if index:
            self.interrupted.wait(60)


def test_what_is_left_is_not_decoded_after_an_interrupt():
    dataset = Blocking()

    def interrupt(done):
        dataset.interrupted.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spoiled_images(dataset, range(1000), lambda dataset, index: None, 1, interrupt)
    assert len(dataset.asked) < 1000
