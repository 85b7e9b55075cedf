"""Bands and depth of images: which the network sees, in what type, and what is measured over them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.banded import write_bands
from ziggurat.config import DataConfig, ModelConfig
from ziggurat.data.bands import band_faults, resolve_bands, shown_as
from ziggurat.data.extents import Region, cut_out
from ziggurat.data.parts import augment_part, needs_whole_window
from ziggurat.data.readers.composite import own_samples
from ziggurat.data.readers.images import blank_pixels, read_image, read_window
from ziggurat.data.readers.in_memory import pixels_of
from ziggurat.data.readers.layout import Reading
from ziggurat.data.readers.opened import ImageInfo
from ziggurat.data.statistics import Measuring, joined, units_of
from ziggurat.data.transforms import augment_image, draw_augmentation, recolor_samples
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.models.images import Normalization
from ziggurat.visualize.composite import Composite

RGB = ("red", "green", "blue")
MOST = 1 << 30


def info(dtype, *roles, **facts):
    return ImageInfo(((8, 8),), dtype, roles, bits=8 * np.dtype(dtype).itemsize, **facts)


@pytest.mark.parametrize(
    ("settings", "first", "bands", "shown"),
    [
        ({}, None, "auto", ""),
        ({}, info("uint8", "grey"), "auto", ""),
        ({}, info("uint8", *RGB), "auto", ""),
        ({}, info("uint8", *RGB, "alpha"), "auto", ""),
        ({}, info("uint8", *RGB, "other"), "1,2,3,4", "1,2,3"),
        ({}, info("uint8", "other", "blue", "green", "red"), "1,2,3,4", "4,3,2"),
        ({}, info("uint16", "grey"), "1", "1"),
        ({}, info("uint16", *RGB, "alpha", "other"), "1,2,3,5", "1,2,3"),
        ({}, info("float32", "grey", "other"), "1,2", "1"),
        ({"range": "0,4095"}, info("uint16", "grey"), "auto", ""),
        ({"extra": "drop"}, info("uint8", *RGB, "other"), "auto", ""),
        ({"bands": "rgb"}, info("uint16", *RGB), "rgb", ""),
        ({"bands": "all"}, info("uint8", *RGB), "1,2,3", "1,2,3"),
        ({"bands": "4,1"}, info("uint8", *RGB, "other"), "4,1", "4"),
        ({"bands": "4,3,2"}, info("uint8", *RGB, "other"), "4,3,2", "4,3,2"),
        ({"bands": "4,3,2,1", "shown": "4"}, info("uint8", *RGB, "other"), "4,3,2,1", "4"),
    ],
)
def test_the_first_image_decides_what_is_not_said(settings, first, bands, shown):
    resolved = resolve_bands(DataConfig(**settings), first)
    assert (resolved.bands, resolved.shown) == (bands, shown)
    assert resolve_bands(resolved, first) == resolved


@pytest.mark.parametrize(
    ("settings", "first", "message"),
    [
        ({"bands": "1,1"}, info("uint8", *RGB), "each band once"),
        ({"bands": "all"}, None, "needs image files"),
        ({"bands": "1,2", "shown": "3"}, info("uint8", *RGB), "among the bands that are seen, 1,2"),
    ],
)
def test_bands_that_do_not_fit_are_refused(settings, first, message):
    with pytest.raises(UserError, match=message):
        resolve_bands(DataConfig(**settings), first)


def test_a_number_for_each_band():
    config = DataConfig(bands="4,1", shown="4", mean="1,2,3", stretch="0:1,0:2,0:3")
    assert [fault.partition(":")[0] for fault in band_faults(config, 2)] == [
        "data.mean and data.std belong together",
        "data.mean must have a number for each of 2 bands",
        "data.stretch must have LOW",
    ]


SAMPLES = st.sampled_from(["uint8", "int16", "uint16", "uint32", "float32", "float64"])


@given(SAMPLES, st.integers(1, 6), st.integers(0, 99), st.booleans(), st.booleans())
def test_samples_are_those_of_the_file_and_nan_where_they_hold_nothing(
    dtype, bands, seed, has_nodata, has_alpha
):
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, 100, (bands + has_alpha, 6, 5)).astype(dtype)
    if samples.dtype.kind == "f":
        samples[0, 0, :2] = np.inf, np.nan
    roles = ["other"] * bands
    if has_alpha:
        roles.insert(seed % (bands + 1), "alpha")
        samples[roles.index("alpha"), 2] = 0
    nodata = 7 if has_nodata else None
    chosen = (1 + rng.permutation([place for place, role in enumerate(roles) if role != "alpha"])).tolist()
    found = own_samples(samples, info(dtype, *roles, nodata=nodata), chosen)
    assert found.dtype == np.float32
    for number, band in zip(chosen, found, strict=True):
        own = samples[number - 1]
        expected = np.where(np.isfinite(own.astype(np.float64)), own, np.nan).astype(np.float32)
        if has_nodata:
            expected[own == 7] = np.nan
        if has_alpha:
            expected[samples[roles.index("alpha")] == 0] = np.nan
        assert np.array_equal(band, expected, equal_nan=True)


@pytest.mark.parametrize("tile", [0, 16])
def test_windows_are_parts_of_the_whole(tmp_path, tile):
    samples = np.random.default_rng(0).integers(0, 65536, (5, 40, 50)).astype(np.uint16)
    options = {"tile": (tile, tile)} if tile else {"rowsperstrip": 8}
    path = write_bands(tmp_path / "a.tif", samples, **options)
    reading = Reading(bands=(5, 1, 2))
    whole = read_image(path, MOST, reading)
    assert torch.equal(whole, torch.from_numpy(samples[[4, 0, 1]].astype(np.float32)))
    region = Region((7, 11), (20, 30))
    window = read_window(path, MOST, (40, 50), region, reading)
    assert torch.equal(window, cut_out(whole, region))


def test_a_band_that_is_not_there_is_refused(tmp_path):
    path = write_bands(tmp_path / "a.tif", np.zeros((4, 8, 8), np.uint16))
    with pytest.raises(UserError, match=r"it has 4 bands of 16 bits, and data.bands=1,5 names band 5"):
        read_image(path, MOST, Reading(bands=(1, 5)))


@pytest.mark.parametrize(
    ("layout", "sound"),
    [("", True), ("4 uint16", True), ("uint16", True), ("3 uint16", False), ("uint8", False)],
)
def test_files_have_the_layout_that_the_network_is_trained_on(layout, sound, tmp_path):
    path = write_bands(tmp_path / "a.tif", np.zeros((4, 8, 8), np.uint16))
    reading = Reading.of(DataConfig(bands="1,2", layout=layout))
    if sound:
        assert read_image(path, MOST, reading).shape == (2, 8, 8)
    else:
        with pytest.raises(UserError, match=f"it has 4 bands of 16 bits, and data.layout={layout} is what"):
            read_image(path, MOST, reading)


def test_pixels_that_hold_nothing_in_any_band(tmp_path):
    samples = np.random.default_rng(0).integers(1, 100, (3, 40, 30)).astype(np.int16)
    samples[:, 3:9, 4] = -1
    samples[0, 20] = -1  # the other bands hold something
    path = write_bands(tmp_path / "a.tif", samples, extratags=[(42113, "s", 2, "-1", True)])
    expected = torch.zeros(40, 30, dtype=torch.bool)
    expected[3:9, 4] = True
    assert torch.equal(blank_pixels(path, MOST, Reading(bands=(1, 2, 3))), expected)
    expected[20] = True
    assert torch.equal(blank_pixels(path, MOST, Reading(bands=(1,))), expected)
    assert blank_pixels(path, MOST, Reading()) is None


CONFIG = DataConfig(
    crop=24, flip="both", quarter_turns=True, color_jitter=0.5, mean="3000,20,5,0.5", std="400,5,2,0.25"
)


def samples_with_holes(seed, extent=(40, 56)):
    generator = torch.Generator().manual_seed(seed)
    mean, std = torch.tensor([3000.0, 20, 5, 0.5]), torch.tensor([400.0, 5, 2, 0.25])
    image = mean.view(4, 1, 1) + std.view(4, 1, 1) * torch.randn(4, *extent, generator=generator)
    image[:, 10:14, 8:40] = torch.nan
    return image


def test_a_part_of_a_crop_of_samples_is_that_part():
    fixed = {"scale_min": 1.0, "scale_max": 1.0}
    for seed in range(20):
        image = samples_with_holes(seed, (20, 30) if seed % 2 else (40, 56))
        config = DataConfig(**(vars(CONFIG) | fixed))
        drawn = draw_augmentation(np.random.default_rng(seed), tuple(image.shape[1:]), config)
        if needs_whole_window(drawn):
            drawn = type(drawn)(**(vars(drawn) | {"contrast": 1.0}))
        whole = augment_image(image, drawn, 24)
        for part in (Region((0, 0), (12, 24)), Region((3, 7), (9, 15)), Region((0, 21), (24, 3))):
            found = augment_part(partial(cut_out, image), drawn, 24, part, image[:, :0])
            assert torch.equal(found.nan_to_num(-1), cut_out(whole, part).nan_to_num(-1))


def test_colours_of_samples_change_in_units_of_each_band():
    image = samples_with_holes(0)
    drawn = draw_augmentation(np.random.default_rng(3), tuple(image.shape[1:]), CONFIG)
    changed = recolor_samples(image, drawn)
    mean, std = (torch.tensor(values).view(4, 1, 1) for values in drawn.spread)
    units = ((image - mean) / std).double()
    expected = drawn.contrast * units + drawn.brightness - 1
    expected = drawn.saturation * expected + (1 - drawn.saturation) * expected.mean(0)
    torch.testing.assert_close(
        ((changed - mean) / std).double(), expected, rtol=1e-4, atol=1e-4, equal_nan=True
    )
    assert torch.equal(changed.isnan(), image.isnan())


class Listed:
    """Images in memory, as a data set has them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def record(self, index):
        return type("Record", (), {"extent": tuple(self.images[index].shape[1:])})

    def image(self, index):
        return self.images[index]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float", "holes"])
def test_what_is_measured_is_that_of_all_samples_at_once_on_any_number_of_workers(kind):
    rng = np.random.default_rng(1)
    images = []
    for rows in (30, 1, 700):
        values = rng.gamma(2, 900, (3, rows, 50)) if kind != "uint8" else rng.integers(0, 256, (3, rows, 50))
        image = torch.from_numpy(np.floor(values) if kind == "uint16" else values).float()
        if kind == "holes":
            image[:, ::3, :20] = torch.nan
        images.append(image.byte() if kind == "uint8" else image)
    dataset, units = Listed(images), units_of(Listed(images))
    found = []
    for size in (1, 2, 3):
        parts, drawn = [], []
        for rank in reversed(range(size)):
            measuring = Measuring(dataset, [2, 0], len(units))
            measuring.run(units[rank::size])
            parts += measuring.parts
            drawn.append(measuring.drawn)
        found.append(joined(parts, [np.concatenate([p for one in drawn for p in one[b]]) for b in (2, 0)]))
    assert found[0] == found[1] == found[2]
    together = np.concatenate([image.flatten(1).numpy() for image in images], axis=1).astype(np.float64)
    np.testing.assert_allclose(found[0].mean, np.nanmean(together, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found[0].std, np.nanstd(together, axis=1), rtol=1e-10)
    exact = np.nanpercentile(together[[2, 0]], (2, 98), axis=1)
    np.testing.assert_allclose([found[0].low, found[0].high], exact, rtol=0.02, atol=1)


def test_a_band_without_samples_is_named():
    image = torch.ones(2, 4, 4)
    image[1] = torch.nan
    measuring = Measuring(Listed([image]), [0], 1)
    measuring.run(units_of(Listed([image])))
    with pytest.raises(UserError, match="hold nothing in band 2 of those that are seen"):
        joined(measuring.parts, [])


def test_images_in_memory_have_the_bands_that_are_seen():
    reading = Reading(bands=(1, 2, 4))
    array = np.random.default_rng(0).integers(0, 4096, (6, 5, 3)).astype(np.uint16)
    expected = torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)
    assert torch.equal(pixels_of(array, "a", reading), expected)
    assert torch.equal(pixels_of(expected.double(), "a", reading), expected)
    typed = Reading(bands=(1, 2, 4), layout=(4, "uint16"))
    assert torch.equal(pixels_of(array, "a", typed), expected)
    assert torch.equal(pixels_of(array.astype(np.float32), "a", typed), expected)
    with pytest.raises(UserError, match=r"trained on samples of the type uint16: a has uint8"):
        pixels_of(array.astype(np.uint8), "a", typed)
    with pytest.raises(UserError, match=r"sees 3 bands: a must be .* got \(6, 5, 4\)"):
        pixels_of(np.zeros((6, 5, 4)), "a", reading)


def test_pictures_show_the_bands_of_the_run_by_their_numbers_in_other_files():
    begun = DataConfig(bands="1,2,3,4", shown="4,1,2", mean="1,2,3,4", std="1,1,1,1", stretch="0:1,0:2,0:3")
    elsewhere = replace(begun, bands="2,3,4,1")
    followed = shown_as(elsewhere, begun)
    assert followed.shown == "1,2,3"
    assert band_faults(followed, 4) == []
    assert Composite.of(followed).places == Composite.of(begun).places == (3, 0, 1)
    assert shown_as(replace(elsewhere, shown="2,3,4"), begun).shown == "2,3,4"
    assert band_faults(replace(begun, bands="5,6,7,8"), 4) == [
        "data.shown must be among the bands that are seen, 5,6,7,8: got 4,1,2"
    ]


def test_bands_of_which_nothing_was_measured_are_neither_normalized_nor_drawn():
    config, model = DataConfig(bands="1,2,3"), build_model(ModelConfig(name="timm:test_resnet"), 2)
    with pytest.raises(UserError, match=r"data\.bands=1,2,3 needs data\.mean and data\.std"):
        Normalization.of(config, model)
    with pytest.raises(UserError, match=r"need data\.shown and data\.stretch"):
        Composite.of(config)(torch.zeros(3, 4, 4))
    assert Normalization.of(DataConfig(), model).white == 255
