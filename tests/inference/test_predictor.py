"""The predictor: images as programs have them, from several threads, and the same answers as `ziggurat predict`."""

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from safetensors.torch import save_file

import ziggurat
from support.fake_detector import BrightSquares, FindSquares, Squares
from support.ranks import run_ranks
from support.small_runs import config_of
from ziggurat.config import DataConfig, RunConfig
from ziggurat.data.batch import map_tensors
from ziggurat.data.readers.image_files import inspect_images
from ziggurat.data.readers.sample_range import SampleRange
from ziggurat.errors import UserError
from ziggurat.inference.predictor import Predictor
from ziggurat.models.build import build_model
from ziggurat.runs.folder import WEIGHTS, declare_run, load_run, start_run_folder
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.mode import EvaluationMode
from ziggurat.tasks.base import Place
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import TASKS

SIZES = [(64, 64), (150, 90), (40, 75)]  # of the second several tiles are made


class Case(NamedTuple):
    folder: object
    predictor: Predictor


@pytest.fixture(scope="module", params=list(TASKS))
def case(request, tmp_path_factory):
    """The folder of a run of each task, with random weights, and what `ziggurat.load` makes of it."""
    config = config_of(request.param, **{"decode.score_threshold": 0.0})
    dataset = open_dataset("digits", "val", request.param, config.data, config.digits)
    folder = tmp_path_factory.mktemp(request.param)
    start_run_folder(folder, config, dataset)
    declare_run(folder, config)
    torch.manual_seed(3)
    model = build_model(config.model, len(dataset.classes))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    return Case(folder, ziggurat.load(folder))


def noise(index, bands=3):
    """An image of noise, uint8, shape ``(H, W, bands)``."""
    shape = (*SIZES[index], bands)
    return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(len(SIZES))]
    for index, path in enumerate(paths):
        Image.fromarray(noise(index)).save(path)
    return paths


def tensors(prediction):
    found = []
    map_tensors(prediction, lambda tensor: found.append(tensor) or tensor)
    assert found
    return found


def same(one, other):
    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


# What goes in.


def test_one_image_in_every_form_gives_the_same_bits(case, files):
    array = noise(1)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    expected = case.predictor(files[1])
    with Image.open(files[1]) as opened:
        forms = {
            "str": str(files[1]),
            "a file of Pillow's": opened,
            "Pillow": Image.fromarray(array),
            "uint8 tensor": tensor.contiguous(),
            "permuted tensor": tensor,
            "float32 tensor": tensor / 255,
            "float64 tensor with a gradient": (tensor.double() / 255).requires_grad_(),
            "uint16 tensor": torch.from_numpy(
                np.ascontiguousarray(array.transpose(2, 0, 1), np.uint16) * 257
            ),
            "uint8 array": array,
            "read-only mirrored array": np.broadcast_to(array[:, ::-1], array.shape)[:, ::-1],
            "float32 array": array.astype(np.float32) / 255,
            "array in the other order of bytes": (array.astype(np.uint16) * 257).astype(">u2"),
        }
        differs = [name for name, image in forms.items() if not same(case.predictor(image), expected)]
    assert differs == []


def test_grey_images_are_seen_in_three_bands(case, tmp_path):
    grey = noise(0, bands=1)
    Image.fromarray(grey[:, :, 0]).save(tmp_path / "grey.png")
    expected = case.predictor(np.repeat(grey, 3, axis=2))
    forms = [tmp_path / "grey.png", Image.fromarray(grey[:, :, 0]), grey, grey[:, :, 0]]
    forms += [torch.from_numpy(grey[None, :, :, 0]), torch.from_numpy(grey[:, :, 0])]
    assert all(same(case.predictor(form), expected) for form in forms)


def images_of_pillow(folder):
    """Files whose pixels are not simply those of their array."""
    colours = Image.fromarray(noise(1))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    colours.save(folder / "turned.jpg", exif=turned)
    colours.save(folder / "turned.tif", exif=turned)
    colours.save(folder / "metadata.jpg", exif=b"Exif\0\0broken")  # is not a broken image
    colours.quantize(8).save(folder / "palette.png", transparency=2)
    colours.convert("RGBA").save(folder / "alpha.png")
    colours.convert("CMYK").save(folder / "print.jpg")
    Image.fromarray(noise(1, bands=1)[:, :, 0].astype(np.uint16) * 250).save(folder / "deep.png")
    return sorted(folder.iterdir())


def test_an_image_of_pillows_is_seen_as_its_file(case, tmp_path):
    paths = images_of_pillow(tmp_path)
    opened = [Image.open(path) for path in paths]
    again = case.predictor(opened), case.predictor(opened)  # now they are decoded
    for image in opened:
        image.close()
    expected = case.predictor(paths)
    assert [[same(*pair) for pair in zip(found, expected, strict=True)] for found in again] == [
        [True] * len(paths)
    ] * 2


def test_several_images_are_a_list_in_order(case, files):
    found = case.predictor([files[0], noise(1), files[2]])
    assert isinstance(found, list)
    assert all(same(*pair) for pair in zip(found, case.predictor(iter(files)), strict=True))
    assert not any(same(*pair) for pair in itertools.pairwise(found))
    assert case.predictor([]) == case.predictor(()) == case.predictor(iter([])) == []


def test_samples_of_other_kinds_by_the_range_of_the_data(files):
    model, config = BrightSquares(), RunConfig(dtype="fp32", data=DataConfig(crop=64, range="-100,4000"))
    predictor = Predictor.of_model(model, config, task=FindSquares(config))
    samples = noise(0).astype(np.int32) * 17 - 150
    expected = predictor(SampleRange(-100, 4000).eight_bits(samples))
    forms = [samples, samples.astype(np.float64), torch.from_numpy(samples.transpose(2, 0, 1)).float()]
    assert all(same(one, expected) for one in predictor(forms))
    assert same(predictor(noise(1)), predictor(files[1]))  # 8 bits are as they are
    deep = Image.fromarray(samples[:, :, 0])
    assert same(predictor(deep), predictor(samples[:, :, 0]))


WRONG = {
    "dtype": (np.zeros((8, 8, 3), np.int64), "int64"),
    "bool": (torch.zeros(3, 8, 8, dtype=torch.bool), "bool"),
    "complex": (torch.zeros(3, 8, 8, dtype=torch.complex64), "complex64"),
    "floats up to 255": (torch.full((3, 8, 8), 255.0), "255"),
    "NaN": (np.full((8, 8, 3), np.nan), "nan"),
    "a batch": (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "(2, 3, 8, 8)"),
    "a line": (np.zeros(8, np.uint8), "(8,)"),
    "four bands": (torch.zeros(4, 8, 9, dtype=torch.uint8), "(4, 8, 9)"),
    "alpha": (np.zeros((8, 9, 4), np.uint8), "(8, 9, 4)"),
    "two bands": (np.zeros((8, 9, 2), np.uint8), "(8, 9, 2)"),
    "an array as a tensor": (np.zeros((3, 8, 9), np.uint8), "(3, 8, 9)"),
    "a tensor as an array": (torch.zeros(8, 9, 3, dtype=torch.uint8), "(8, 9, 3)"),
    "no pixels": (np.zeros((0, 8, 3), np.uint8), "(0, 8, 3)"),
    "a number": (5, "int"),
    "nothing": (None, "NoneType"),
    "no file": ("nowhere.png", "nowhere.png"),
    "samples without a range": (Image.fromarray(np.zeros((8, 8), np.float32)), "data.range"),
}


@pytest.fixture(scope="module")
def predictor():
    config = RunConfig(dtype="fp32", data=DataConfig(crop=64))
    return Predictor.of_model(BrightSquares(), config, task=FindSquares(config), classes=("dark", "bright"))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_image_is_one_fault_with_its_value(predictor, name):
    image, value = WRONG[name]
    for images in (image, [noise(0), image]):
        with pytest.raises(UserError) as caught:
            predictor(images)
        (fault,) = caught.value.faults
        assert value in fault
    with pytest.raises(UserError):
        predictor.draw(image, None)


def test_every_fault_is_told_at_once(predictor):
    with pytest.raises(UserError) as caught:
        predictor([image for image, _ in WRONG.values()])
    assert [
        value in fault for (_, value), fault in zip(WRONG.values(), caught.value.faults, strict=True)
    ] == [True] * len(WRONG)
    with pytest.raises(UserError, match="image 2"):
        predictor([noise(0), noise(0), 5])


def test_files_that_cannot_be_decoded(predictor, files, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    files[1].write_bytes(files[1].read_bytes()[:-200])  # its header is sound
    for image in (tmp_path / "text.png", files[1], [files[0], files[1], files[2]]):
        with pytest.raises(UserError) as caught:
            predictor(image)
        (fault,) = caught.value.faults
        assert "1.png" in fault or "text.png" in fault
    with Image.open(files[1]) as image, pytest.raises(UserError, match=r"1\.png"):
        predictor(image)


def test_the_bound_of_pixels_is_for_files(files):
    config = RunConfig(data=DataConfig(max_pixels=99))
    predictor = Predictor.of_model(BrightSquares(), config, task=FindSquares(config))
    with pytest.raises(UserError, match="max_pixels"):
        predictor(files[0])
    assert tensors(predictor(noise(0)))  # in memory it is already


# What comes out.


def test_the_results_are_those_of_the_command(case, files):
    out = case.folder / "predictions"
    settings = {"plan": "dp=1", "device": "cpu"}
    result = ziggurat.predict(case.folder, [str(path) for path in files], out, settings)
    written = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    run, rows = load_run(case.folder), []
    images = inspect_images(files, case.predictor.config.data.max_pixels)
    for index, prediction in enumerate(case.predictor(files)):
        place = Place(images.record(index), out, files[index].stem, run.classes, run.category_ids)
        rows += case.predictor.task.rows(prediction, place)  # a segmenter's write its masks anew
        drawn = case.predictor.draw(files[index], prediction)
        with Image.open(out / files[index].name) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(drawn))
    assert rows
    assert json.loads(json.dumps(rows)) == json.loads((out / "predictions.json").read_text())
    assert {path: path.read_bytes() for path in written} == written
    assert result["images"] == len(files)


def test_a_predictor_of_a_run_is_what_load_returns(case, files):
    other = ziggurat.Predictor.of_run(load_run(case.folder))
    assert all(same(*pair) for pair in zip(other(files), case.predictor(files), strict=True))
    assert other.classes == case.predictor.classes
    assert other.classes
    assert isinstance(case.predictor, ziggurat.Predictor)


def test_a_picture_of_every_form(case, files):
    prediction = case.predictor(files[1])
    forms = [files[1], str(files[1]), noise(1), Image.fromarray(noise(1)), noise(1).astype(np.float32) / 255]
    pictures = [case.predictor.draw(form, prediction) for form in forms]
    assert all(isinstance(picture, Image.Image) for picture in pictures)
    assert all(np.array_equal(np.asarray(picture), np.asarray(pictures[0])) for picture in pictures)


def test_windows_of_a_file_are_those_of_its_pixels(predictor, tmp_path):
    image = Squares([(300, 200)]).image(0)
    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "squares.tif")
    assert same(predictor(tmp_path / "squares.tif"), predictor(image))


def test_predictions_may_meet_autograd(case, files):
    assert not any(tensor.is_inference() for tensor in tensors(case.predictor(files[1])))


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        ziggurat.load(tmp_path)


def test_settings_over_those_of_the_run(case):
    assert ziggurat.load(case.folder, settings={"data.crop": 96}).config.data.crop == 96
    with pytest.raises(UserError) as caught:
        ziggurat.load(case.folder, settings={"plan": "dp=2", "launch.backend": "gloo", "data.crop": 96})
    (fault,) = caught.value.faults
    assert "launch.backend, plan" in fault


# The model.


def run_in_training(case):
    """Return the case's run, its model in training but for one frozen layer."""
    run = load_run(case.folder)
    norms = [module for module in run.model.train().modules() if isinstance(module, torch.nn.BatchNorm2d)]
    norms[0].eval()
    return run


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def modes(model):
    return [module.training for module in model.modules()]


def test_the_model_stays_as_it_was(case, files):
    run = run_in_training(case)
    model, state = run.model, state_of(run.model)
    before, gradients = modes(model), [one.requires_grad for one in model.parameters()]
    assert set(before) == {True, False}
    predictor = Predictor.of_model(model, run.config)
    assert modes(model) == before
    seen = []
    handle = model.register_forward_hook(
        lambda module, given, found: seen.append((any(modes(module)), torch.is_inference_mode_enabled()))
    )
    found = predictor(files)
    handle.remove()
    assert set(seen) == {(False, True)}
    assert all(same(*pair) for pair in zip(found, case.predictor(files), strict=True))
    files[0].write_bytes(files[0].read_bytes()[:-200])
    with pytest.raises(UserError):
        predictor(files)
    assert modes(model) == before
    assert [one.requires_grad for one in model.parameters()] == gradients
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_threads_get_the_bits_that_one_gets_after_another(case, files):
    run = run_in_training(case)
    predictor = Predictor.of_model(run.model, run.config)
    before, state = modes(run.model), state_of(run.model)
    expected = [predictor(path) for path in files]
    num_threads, rounds = 4, 3
    together = threading.Barrier(num_threads)

    def work(number):
        found = []
        for turn in range(rounds):
            index = (number + turn) % len(files)
            together.wait(timeout=60)  # all begin at once
            image = files[index] if number % 2 else noise(index)
            found.append(same(predictor(image), expected[index]))
        return found

    with ThreadPoolExecutor(num_threads) as threads:
        assert list(threads.map(work, range(num_threads))) == [[True] * rounds] * num_threads
    assert modes(predictor.model) == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in predictor.model.state_dict().items())


def test_the_last_of_several_blocks_restores_the_mode():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    mode = EvaluationMode(model)
    with mode:
        with mode:
            assert modes(model) == [False] * 3
        assert modes(model) == [False] * 3
    assert modes(model) == [True, True, False]
    with pytest.raises(RuntimeError), mode:
        raise RuntimeError
    assert modes(model) == [True, True, False]


def share_of_one_of_two(workers):
    config = RunConfig(dtype="fp32", data=DataConfig(crop=64))
    predictor = Predictor.of_model(BrightSquares(), config, make_mesh(workers), task=FindSquares(config))
    with pytest.raises(UserError) as caught:
        predictor(noise(0))
    assert "2" in caught.value.faults[0]
    return sorted(predictor.predict(Squares(SIZES)))


def test_workers_that_compute_together_each_have_some_of_the_images():
    shares = run_ranks(share_of_one_of_two, 2)
    assert sorted(itertools.chain(*shares)) == [0, 1, 2]
