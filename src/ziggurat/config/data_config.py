"""What of a run's config says which images are seen, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ziggurat.config.fields import (
    BANDS,
    BYTES,
    COUNT,
    LAYOUT,
    MAX_SIDE,
    MIN_SIDE,
    NUMBERS,
    PIXEL_VALUE,
    POSITIVES,
    PROBABILITY,
    RANGES,
    SAMPLE_RANGE,
    SEED,
    SHARE,
    SHOWN_BANDS,
    SIDES,
    between,
    setting,
    zero_or,
)


@dataclass(frozen=True)
class DataConfig:
    """Reading and augmenting images."""

    path: str = setting(
        "", "The data set: a folder, an annotation file, or ``digits`` (the embedded data set)."
    )
    val: str = setting(
        "",
        "What training evaluates on: a folder or an annotation file; empty takes the ``val`` split of "
        "``path``.",
    )
    split: Literal["given", "blocks"] = setting(
        "given",
        "How images are divided into training and validation: as the data set says (``given``), or, where it has no "
        "``val`` split, by square blocks of its images (``blocks``), so that a single photograph is enough.",
    )
    val_share: float = setting(
        0.2,
        "Share of all pixels that lie in blocks for validation, with ``split=blocks``.",
        between(0.01, 0.9),
    )
    block: int = setting(
        0,
        "Rows and columns of a block, in pixels of the image, with ``split=blocks``; 0 takes twice the crop, or less where the "
        "images have few such blocks. The run's config holds the number that was taken.",
        zero_or(MIN_SIDE, 1 << 20),
    )
    split_seed: int = setting(
        0, "Another seed is another choice of blocks, with ``split=blocks``.", between(0, SEED)
    )
    classes: str = setting(
        "",
        "Names of all classes, with commas between: of the values of segmentation masks from 0 (``name=255`` gives "
        "another value), else in the order of labels. Empty takes those that the data set declares, else those that "
        "occur in its training data.",
    )
    ignore: int = setting(255, "Value of a mask's pixels that take no part in loss and metric.", PIXEL_VALUE)
    crop: int = setting(
        512,
        "Rows and columns of a training crop and of a prediction tile, in pixels of the network's input. "
        "Larger than an image: it is trained on whole, at a random place of a black crop, and predicted "
        "as one piece.",
        between(MIN_SIDE, MAX_SIDE),
    )
    crops: str = setting(
        "",
        "Sides of the training crop, with commas between, such as ``448,512,576``: each step takes one of "
        "them, and images are scaled along, so that a crop shows as much as one of ``crop`` pixels. Empty "
        "takes ``crop`` always.",
        SIDES,
    )
    aspect_grouping: int = setting(
        0,
        "Groups of images between an aspect ratio and its double, as torchvision's ``--aspect-ratio-group-factor``: the images of a step are of "
        "one group (of two where one ends), and its crops have the rows and columns that the largest of them needs, up to ``crop``, instead of "
        "being square. 0: no groups, square crops. For images that are smaller than the crop, not with ``quarter_turns``.",
        between(0, 16),
    )
    resize: int = setting(
        0,
        "Shorter side of every image before it is cropped or tiled, in pixels; 0 keeps its own size (a "
        "classifier's images are resized to ``crop``).",
        zero_or(MIN_SIDE, MAX_SIDE),
    )
    resize_limit: int = setting(
        1333, "Longest side that ``resize`` may lead to, in pixels.", between(MIN_SIDE, 1 << 20)
    )
    gsd: float = setting(
        0.0,
        "Metres on the ground that a pixel of the network's input spans (ground sampling distance): every image is resized to it from its own, which its "
        "georeference says, by rows and columns; 0 leaves images as they are. Not with ``resize``.",
        zero_or(1e-4, 1e5),
    )
    mpp: float = setting(
        0.0,
        "Microns that a pixel of the network's input spans, as ``gsd`` for slides and microscopes.",
        zero_or(1e-4, 1e5),
    )
    unscaled: Literal["refuse", "keep"] = setting(
        "refuse",
        "Images that do not say their own resolution, where ``gsd`` or ``mpp`` asks for one: ``refuse`` them, or ``keep`` their pixels as they are.",
    )
    antialias: bool = setting(
        True, "Smooth what becomes smaller in evaluation and prediction; torchvision's detectors do not."
    )
    scale_min: float = setting(0.8, "Smallest factor of the scale jitter.", between(0.01, 100.0))
    scale_max: float = setting(1.25, "Largest factor of the scale jitter.", between(0.01, 100.0))
    flip: Literal["none", "horizontal", "both"] = setting(
        "horizontal",
        "Mirror images left-right (``horizontal``), also upside down (``both``), or not (``none``).",
    )
    quarter_turns: bool = setting(
        False, "Turn images by multiples of 90 degrees (aerial images, microscopy)."
    )
    color_jitter: float = setting(
        0.0, "Strength of random brightness, contrast and saturation; 0 is none.", between(0.0, 2.0)
    )
    min_visible: float = setting(
        0.25, "A box that keeps less than this share of its area in the crop is left out.", SHARE
    )
    balance: Literal["none", "repeat", "repeat-instances"] = setting(
        "none",
        "How often an epoch has images with rare classes: each once (``none``), or an image with a class of which ``f`` is the share of "
        "images that have it ``max(1, sqrt(t / f))`` times, by its rarest class (``repeat``, as LVIS); ``repeat-instances`` takes for "
        "``f`` the geometric mean of the shares of images and of objects (of pixels, for masks). ``t`` is ``data.repeat_threshold``. "
        "Fractions are rounded at random, keyed by seed, epoch and sample.",
    )
    repeat_threshold: float = setting(
        0.001,
        "Classes that are rarer than this share of images are repeated by ``data.balance``.",
        between(1e-9, 1.0),
    )
    count_classes: Literal["auto", "always"] = setting(
        "auto",
        "Count the images and objects of each class before training, so that metrics are told by how frequent a class is: where another "
        "setting needs the counts (``auto``), or ``always``. Masks are read for it; ``ziggurat check`` counts them with ``always`` alone.",
    )
    rare_crops: float = setting(
        0.0,
        "Probability that a training crop is placed around something of its image, not anywhere: an object (a pixel, for masks) of one of the "
        "classes that the image has, a class being drawn in proportion to ``1 / f``, with ``f`` as ``data.balance=repeat-instances`` has it. "
        "Keyed by seed, epoch and sample.",
        PROBABILITY,
    )
    workers: int = setting(1, "Loader processes per worker; 0 loads in the worker itself.", between(0, 256))
    cache_bytes: int = setting(
        1 << 30, "Decoded images that each loader process may keep.", between(0, BYTES)
    )
    max_pixels: int = setting(
        1 << 30,
        "Most pixels that are decoded at once: of a file that can only be decoded as a whole the image, else a region.",
        between(1, BYTES),
    )
    bands: str = setting(
        "auto",
        "What the network sees of each pixel. ``rgb``: red, green and blue of 8 bits (grey is all three). ``4,3,2``: those bands of the "
        "files, counted from 1, in that order, in samples of their own type. ``all``: all but transparency. ``auto``: ``rgb`` "
        "where the first training image has grey or colours of up to 8 bits, or where ``data.range`` or ``data.extra=drop`` is set, else ``all``.",
        BANDS,
    )
    layout: str = setting(
        "",
        "The bands of every image file, without transparency, and the type of its samples, such as ``4 uint16``, or the type alone, where "
        "``data.bands`` are not ``rgb``: others are refused, whose samples would mean something else. Empty takes any; training sets it "
        "to that of its first image.",
        LAYOUT,
    )
    normalize: Literal["auto", "weights", "data"] = setting(
        "auto",
        "Mean and deviation by which images are normalized: of the training ``data``, measured once over all pixels, or those that the "
        "``weights`` were trained with. ``auto``: ``weights`` for ``rgb``, ``data`` for other bands.",
    )
    mean: str = setting(
        "",
        "Mean of each band, in samples of the files (of ``rgb``, 0 to 255); empty is as ``data.normalize`` says, and training sets it.",
        NUMBERS,
    )
    std: str = setting("", "Deviation of each band, as ``data.mean``.", POSITIVES)
    shown: str = setting(
        "",
        "The bands of the files that pictures show as red, green and blue, such as ``4,3,2``, or one as grey, where ``data.bands`` are "
        "not ``rgb``; empty takes those that files call so, else the first three. Training sets it.",
        SHOWN_BANDS,
    )
    stretch: str = setting(
        "",
        "The samples of each shown band that pictures have black and white, as ``LOW:HIGH``; empty takes percentiles 2 and 98 of the "
        "training data. Training sets it.",
        RANGES,
    )
    range: str = setting(
        "",
        "The samples that are black and white, such as ``0,4095``, in images of more than 8 bits; empty "
        "takes all of 16 bits, and refuses 32 bits, signed and floating-point samples, which have no "
        "range of their own.",
        SAMPLE_RANGE,
    )
    extra: Literal["refuse", "drop"] = setting(
        "refuse",
        "What image files hold beside one picture of one or three bands: further bands (near infrared), pages, frames. "
        "``refuse`` such files, or ``drop`` what lies behind the first.",
    )
    images: str = setting(
        "",
        "Folder of the images, where they do not lie in the data set's folder; names in the annotations are "
        "looked for in it first.",
    )
    label_column: str = setting(
        "",
        "Column that holds the class, in GeoPackages, GeoJSON and shapefiles; empty takes the one that is called so "
        "(``label``, ``class`` ...), and says which.",
    )
    exif: Literal["auto", "upright", "stored"] = setting(
        "auto",
        "What annotations are for whose size is that of a photo's file, or that have none, where its EXIF turns the photo: "
        "``upright`` (the "
        "photo as it is shown), ``stored`` (as it lies in its file), or ``auto``: what boxes say that fit in one of "
        "the two only, and a fault where none does.",
    )
    tile_overlap: float = setting(
        0.25,
        "Share of a tile's side that neighbouring prediction tiles have in common.",
        between(0.0, 0.9),
    )
    on_error: Literal["stop", "skip"] = setting(
        "stop",
        "When annotations or images are faulty (a box without area, a missing or broken file, another size): "
        "``stop``, or ``skip`` them, which leaves them out of training and evaluation, counts them, and lists them "
        "in ``skipped.jsonl``.",
    )

    @property
    def has_own_bands(self) -> bool:
        """Whether the network sees bands in samples of their own type; what is still ``auto`` is red, green and blue of 8 bits."""
        return self.bands not in ("auto", "rgb")


@dataclass(frozen=True)
class DigitsConfig:
    """The embedded data set: handwritten digits on photographs."""

    size: int = setting(128, "Rows and columns of a scene, in pixels.", between(MIN_SIDE, 1 << 13))
    count_min: int = setting(2, "Fewest digits of a scene.", between(0, 200))
    count_max: int = setting(5, "Most digits of a scene.", between(0, 200))
    height_min: int = setting(12, "Height of the smallest digit, in pixels.", between(4, 1 << 13))
    height_max: int = setting(64, "Height of the largest digit, in pixels.", between(4, 1 << 13))
    train_scenes: int = setting(2000, "Scenes of the training split.", between(1, COUNT))
    val_scenes: int = setting(200, "Scenes of the validation split.", between(1, COUNT))
    seed: int = setting(0, "Another seed is another data set.", between(0, SEED))
    imbalance: float = setting(
        1.0,
        "How many times as often the digit 0 is drawn for training scenes as the digit 9, with equal ratios between neighbours (a long "
        "tail); validation scenes have all digits equally often.",
        between(1.0, 1e4),
    )


def read_numbers(text: str) -> tuple[float, ...]:
    """Return numbers with commas between.

    Example:
        >>> read_numbers("1022.5,981")
        (1022.5, 981.0)
    """
    return tuple(float(part) for part in text.split(","))
