"""Networks of packages that are neither timm nor smp nor torchvision: one table a package, narrow builds, random weights.

``python tests/sweep/main.py --help`` says how the packages are installed; nothing else is downloaded. ``ziggurat verify`` takes the
names, too, from the folder ``tests``: ``ziggurat verify sweep.third_party.monai_networks:unet_2d --plan sp=2 --input 3x1x64x64``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence

from sweep.third_party.entry import Entry

ROOM = __name__
TABLES = {
    "transformers": (
        "transformers",
        ("transformers_classifiers", "transformers_dense", "transformers_detectors"),
    ),
    "MONAI": ("monai", ("monai_networks",)),
    "nnU-Net": ("dynamic_network_architectures", ("nnunet_networks",)),
    "pytorchcv": ("pytorchcv", ("pytorchcv_networks",)),
    "spandrel": ("spandrel", ("spandrel_networks",)),
    "kornia": ("kornia", ("kornia_networks",)),
    "vit-pytorch": ("vit_pytorch", ("vit_pytorch_networks",)),
    "effdet": ("effdet", ("effdet_networks",)),
}
"""Package: the module that it is imported as, and its tables."""
DISTRIBUTIONS = (
    "transformers", "monai", "dynamic-network-architectures", "pytorchcv", "spandrel", "spandrel_extra_arches", "kornia",
    "vit-pytorch", "effdet",
)  # fmt: skip


def third_party_networks(packages: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return package and name of every network.

    Args:
        packages: Of these only.
    """
    return [
        (package, f"{ROOM}.{table}:{name}")
        for package, (_, tables) in TABLES.items()
        if package in (packages or TABLES)
        for table in tables
        for name in importlib.import_module(f"{ROOM}.{table}").NETWORKS
    ]


def find_entry(name: str) -> Entry | None:
    """Return the entry of a network; None for one that is not of these tables."""
    table, _, network = name.partition(":")
    if not table.startswith(f"{ROOM}."):
        return None
    found: Entry = importlib.import_module(table).NETWORKS[network]
    return found


def is_installed(package: str) -> bool:
    """Say whether a package of `TABLES` can be imported."""
    return importlib.util.find_spec(TABLES[package][0]) is not None
