from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from ziggurat.models.image_pyramid import collapse, gaussian_pyramid, laplacian_pyramid

SIZES = [(16, 24), (13, 22), (7, 5), (2, 3), (1, 1)]
TAPS = np.array([1, 4, 6, 4, 1]) / 16


def reduced(image: np.ndarray) -> np.ndarray:
    """Burt and Adelson's equation 1, by scipy."""
    for axis in (0, 1):
        image = ndimage.correlate1d(image, TAPS, axis=axis, mode="nearest")
    return image[::2, ::2]


def expanded(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Their equation 2, by scipy: zeros between the positions, blurred with four times the kernel."""
    image = np.pad(image, 2, mode="edge")
    zeros = np.zeros((2 * image.shape[0], 2 * image.shape[1]))
    zeros[::2, ::2] = image
    for axis in (0, 1):
        zeros = ndimage.correlate1d(zeros, 2 * TAPS, axis=axis, mode="constant")
    return zeros[4 : 4 + size[0], 4 : 4 + size[1]]


@pytest.mark.parametrize("size", SIZES)
def test_levels_are_those_of_the_paper(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    gaussian, laplacian = gaussian_pyramid(images, 4), laplacian_pyramid(images, 4)
    assert len(gaussian) == len(laplacian) == 4
    for image in range(2):
        for channel in range(3):
            fine = images[image, channel].numpy()
            for number in range(4):
                rows, columns = (-(-extent // 2**number) for extent in size)
                assert gaussian[number].shape == laplacian[number].shape == (2, 3, rows, columns)
                np.testing.assert_allclose(gaussian[number][image, channel], fine, atol=1e-14)
                coarse = reduced(fine)
                detail = fine - expanded(coarse, fine.shape) if number < 3 else fine
                np.testing.assert_allclose(laplacian[number][image, channel], detail, atol=1e-14)
                fine = coarse


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_levels", [1, 2, 5])
def test_a_laplacian_pyramid_collapses_to_its_images(size: tuple[int, int], num_levels: int) -> None:
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(collapse(laplacian_pyramid(images, num_levels)), images, rtol=0.0, atol=1e-14)


def test_what_does_not_change_over_the_image_stays_also_at_the_border() -> None:
    for number, level in enumerate(gaussian_pyramid(torch.full((1, 3, 9, 6), 0.25), 3)):
        torch.testing.assert_close(level, torch.full_like(level, 0.25))
        assert laplacian_pyramid(torch.full((1, 3, 9, 6), 0.25), 3)[number].abs().max() < (
            0.3 if number == 2 else 1e-6
        )


def test_autocast_and_channels_last_change_nothing() -> None:
    images = torch.rand(2, 3, 21, 30)
    last = images.contiguous(memory_format=torch.channels_last)
    expected = laplacian_pyramid(images, 3)
    with torch.autocast("cpu", torch.bfloat16):
        levels = laplacian_pyramid(last, 3)
    for level, one in zip(levels, expected, strict=True):
        assert level.dtype is torch.float32
        assert level.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(level, one)
    torch.testing.assert_close(collapse(levels), images)


def test_a_pyramid_has_a_level() -> None:
    with pytest.raises(ValueError, match="must have a level at least: got num_levels 0"):
        gaussian_pyramid(torch.rand(1, 3, 8, 8), 0)
