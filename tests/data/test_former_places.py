"""What scripts of the version before import is found, with a warning that says where it is now."""

import pytest

from ziggurat.data.readers import images


def test_images_have_moved_to_readers() -> None:
    with pytest.warns(DeprecationWarning, match=r"ziggurat\.data\.readers\.images now: import read_image"):
        from ziggurat.data.images import read_image
    assert read_image is images.read_image
