"""Runs on one image that is divided into blocks: the same bits on any number of workers, and the same blocks for ever after."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.transform import Affine

from support.ranks import run_ranks
from support.small_runs import SMALL, TASKS, resumed
from ziggurat.cli.main import main
from ziggurat.commands.resolving import resolve
from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.training.loop import train

BLOCKS = {"data.split": "blocks", "data.block": 32, "train.steps": 2, "train.checkpoint_every": 1}


def write_mosaic(folder, side=128):
    """Write an image of squares with their outlines; return the annotation file."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 90, (side, side, 3), dtype=np.uint8)
    annotations = []
    for number, (top, left) in enumerate(
        (y, x) for y in range(6, side - 16, 22) for x in range(4, side - 16, 25)
    ):
        pixels[top : top + 14, left : left + 14] += 120
        corners = [left, top, left + 14, top, left + 14, top + 14, left, top + 14]
        annotations.append(
            {"id": number, "image_id": 1, "category_id": 1, "bbox": [left, top, 14, 14], "iscrowd": 0, "area": 196,
             "segmentation": [corners]}
        )  # fmt: skip
    Image.fromarray(pixels).save(folder / "mosaic.png")
    content = {
        "images": [{"id": 1, "file_name": "mosaic.png", "width": side, "height": side}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": annotations,
    }
    (folder / "mosaic.json").write_text(json.dumps(content))
    return folder / "mosaic.json"


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    return write_mosaic(tmp_path_factory.mktemp("mosaic") / "set")


def config_of(task, mosaic, **settings):
    return override(
        RunConfig(), SMALL | {"task": task} | TASKS[task] | BLOCKS | {"data.path": str(mosaic)} | settings
    )


def run(workers, config, folder):
    result = train(workers, dataclasses.replace(config, plan=f"dp={workers.size}"), folder)
    return result["weights_sha256"], result["loss"], result["metrics"]


@pytest.fixture(scope="module")
def one(mosaic, tmp_path_factory):
    """A run of a detector on one worker, and what came out."""
    folder = tmp_path_factory.mktemp("one") / "run"
    (result,) = run_ranks(run, 1, (config_of("detect", mosaic), folder))
    return folder, result


def test_one_equals_many_for_boxes(mosaic, one, tmp_path):
    assert run_ranks(run, 2, (config_of("detect", mosaic), tmp_path / "two")) == [one[1]] * 2
    assert one[1][2]["map"] is not None


def test_one_equals_many_for_masks(mosaic, tmp_path):
    config = config_of("segment", mosaic, **{"train.steps": 1})
    (alone,) = run_ranks(run, 1, (config, tmp_path / "one"))
    assert run_ranks(run, 2, (config, tmp_path / "two")) == [alone] * 2


def test_a_resumed_run_sees_the_same_blocks(one, tmp_path):
    folder = shutil.copytree(one[0], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "step-2")
    (result,) = run_ranks(resumed, 1, ("dp=1", folder))
    assert (result["weights_sha256"], result["loss"], result["metrics"]) == one[1]


def skipped(workers, config, folder):
    result = train(workers, dataclasses.replace(config, plan=f"dp={workers.size}"), folder)
    listed = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    return result["weights_sha256"], result["skipped"], listed


def test_a_damaged_tile_costs_its_region_on_any_number_of_workers(mosaic, tmp_path):
    file = tmp_path / "mosaic.tif"
    pixels = np.asarray(Image.open(mosaic.parent / "mosaic.png").convert("RGB")).transpose(2, 0, 1)
    shape = {"count": 3, "height": 128, "width": 128, "dtype": "uint8", "crs": "EPSG:32632"}
    tiles = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    place = Affine(0.1, 0, 500000, 0, -0.1, 5600000)
    with rasterio.open(
        file, "w", driver="GTiff", photometric="rgb", transform=place, **shape, **tiles
    ) as target:
        target.write(pixels)
    with tifffile.TiffFile(file) as opened:
        start = opened.pages[0].dataoffsets[-1]  # of the last tile
    content = bytearray(file.read_bytes())
    content[start : start + 40] = bytes(40)
    file.write_bytes(content)
    (tmp_path / "crowns.json").write_text(mosaic.read_text().replace("mosaic.png", "mosaic.tif"))
    config = config_of("detect", tmp_path / "crowns.json", **{"data.on_error": "skip", "train.steps": 1})
    (alone,) = run_ranks(skipped, 1, (config, tmp_path / "one"))
    assert alone[1]["images"] == 1
    assert [Path(one["file"]).name for one in alone[2]] == ["mosaic.tif"]
    assert re.search(r"\[\d+:128,\d+:128\]$", alone[2][0]["id"])
    assert run_ranks(skipped, 2, (config, tmp_path / "two")) == [alone] * 2


def test_the_config_of_a_run_holds_the_block(mosaic):
    config = resolve(
        config_of("detect", mosaic, **{"data.block": 0, "data.crop": 40, "plan": "dp=1"}), None, False
    )
    assert config.data.block == 40  # of 80 pixels there would be 4
    again = resolve(override(config, {"data.crop": 64}), None, False)
    assert again.data.block == 40


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"data.path": "digits"}, "has no effect on digits, which has a validation split of its own"),
        ({"data.block": 500}, "makes 1 of 500 pixels a side; lower data.block"),
        ({"data.resize": 64}, "got data.resize=64; give data.resize=0"),
        ({"data.val": "MOSAIC"}, "data.val has no effect without data.split=given: blocks are evaluated on"),
        ({"data.split": "given"}, "data.block has no effect without data.split=blocks"),
    ],
)
def test_what_cannot_be_is_one_message(mosaic, settings, fault):
    settings = {key: str(mosaic) if value == "MOSAIC" else value for key, value in settings.items()}
    config = config_of("detect", mosaic, **{"plan": "dp=1"} | settings)
    with pytest.raises(UserError, match=fault) as caught:
        resolve(config, None, False, given=BLOCKS | settings)
    assert len(caught.value.faults) == 1, caught.value.faults


def test_a_set_without_validation_is_told_of_blocks(mosaic, capsys):
    undivided = {"data.split": "given", "data.block": 0, "plan": "dp=1", "data.crop": 32}
    resolve(config_of("detect", mosaic, **undivided), None, False)
    assert (
        "has no validation split, so nothing is measured: --set data.split=blocks" in capsys.readouterr().err
    )
    resolve(config_of("detect", mosaic, **undivided | {"data.crop": 512}), None, False)
    assert "data.split=blocks" not in capsys.readouterr().err  # a small image


def test_evaluation_measures_the_blocks_of_the_run(mosaic, one, capfd):
    words = ["evaluate", str(one[0]), str(mosaic), "--plan", "dp=1", "--json", "--threads", "1"]

    def evaluate(*more):
        assert main([*words, *more]) == 0
        out, err = capfd.readouterr()
        return json.loads(out.splitlines()[-1]), err

    result, said = evaluate()
    assert result["metrics"] == one[1][2]
    assert "data.split=blocks: of 16 blocks of about 32 pixels a side, 3 " in said
    trained, _ = evaluate("--split", "train")
    whole, _ = evaluate("--set", "data.split=given")
    assert whole["images"] == 1 < result["images"] < trained["images"]
    assert main([*words, "--set", "data.split_seed=1"]) == 2
    assert "data.split_seed has no effect in `ziggurat evaluate`" in capfd.readouterr().err


def test_check_counts_both_parts(mosaic, capsys):
    assert main(["check", str(mosaic), "--json", "--set", "data.split=blocks", "data.block=32"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    parts = result["parts"]
    assert {part: counts["blocks"] for part, counts in parts.items()} == {"train": 13, "val": 3}
    assert sum(counts["pixels"] for counts in parts.values()) == 128 * 128
    assert all(counts["annotations"] and counts["regions"] for counts in parts.values())
    assert main(["check", str(mosaic), "--set", "data.split=blocks", "data.block=32"]) == 0
    assert "data.split=blocks, val: 3 blocks, " in capsys.readouterr().out
    assert main(["check", str(mosaic), "--set", "data.block=32"]) == 2
    assert "data.block has no effect in `ziggurat check` without data.split=blocks" in capsys.readouterr().err
