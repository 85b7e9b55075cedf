"""What GDAL reads: each region is the crop of the whole as rasterio's own full read has it, at each level, whoever reads."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from support.hostile_files import mutations
from support.ranks import run_ranks
from ziggurat.data.extents import Region
from ziggurat.data.readers.gdal import GdalReader
from ziggurat.errors import UserError

TURNED = Affine.translation(300000, 5000000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
READER = GdalReader()


def write(path: Path, bands: np.ndarray, **profile: object) -> None:
    """Write a GeoTIFF, or what the driver says."""
    count, height, width = bands.shape
    kept = {"driver": "GTiff", "crs": "EPSG:32632", "transform": TURNED} | profile
    overviews, mask, palette, names = (
        kept.pop(key, None) for key in ("overviews", "mask", "palette", "names")
    )
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"):
        with rasterio.open(
            path, "w", count=count, height=height, width=width, dtype=bands.dtype, **kept
        ) as file:
            file.write(bands)
            if mask is not None:
                file.write_mask(mask)
            if palette is not None:
                file.write_colormap(1, palette)
            for number, name in enumerate(names or (), 1):
                file.set_band_description(number, name)
        if overviews:
            with rasterio.open(path, "r+") as file:
                file.build_overviews(overviews)


def bands(count: int, height: int, width: int, dtype: str, top: int = 60000) -> np.ndarray:
    """Return samples of noise."""
    return np.random.default_rng(5).integers(0, top, (count, height, width)).astype(dtype)


VRT = """\
<VRTDataset rasterXSize="90" rasterYSize="70">
  <SRS>EPSG:32632</SRS><GeoTransform>300000, 0.5, 0, 5000000, 0, -0.5</GeoTransform>
  {bands}
</VRTDataset>
"""
BAND = """\
<VRTRasterBand dataType="UInt16" band="{number}">{nodata}
  <SimpleSource><SourceFilename relativeToVRT="1">{file}</SourceFilename><SourceBand>{number}</SourceBand>
    <SrcRect xOff="0" yOff="0" xSize="40" ySize="70"/><DstRect xOff="{at}" yOff="0" xSize="40" ySize="70"/></SimpleSource>
</VRTRasterBand>
"""


COLOURS = """\
<VRTRasterBand dataType="Byte" band="1"><ColorInterp>Palette</ColorInterp><ColorTable>
  <Entry c1="1" c2="2" c3="3" c4="255"/><Entry c1="50" c2="60" c3="70" c4="0"/><Entry c1="9" c2="8" c3="7" c4="255"/></ColorTable>
  <SimpleSource><SourceFilename relativeToVRT="1">palette.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
</VRTRasterBand>
"""


def vrt(path: Path, source: str, more: str = "") -> Path:
    """Write a mosaic of two bands of a source."""
    text = [
        BAND.format(number=number, file=source, at=10, nodata="<NoDataValue>7</NoDataValue>")
        for number in (1, 2)
    ]
    path.write_text(VRT.format(bands="".join(text) + more))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rasters")
    (folder / "tiles").mkdir()
    mask = bands(1, 61, 83, "uint8", 2)[0] * np.uint8(255)
    palette = {0: (1, 2, 3, 255), 1: (50, 60, 70, 255), 2: (9, 8, 7, 255)}
    tiled = {"tiled": True, "blockxsize": 16, "blockysize": 32}
    write(
        folder / "cog.tif",
        bands(4, 150, 131, "uint16"),
        compress="lzw",
        overviews=[2, 4],
        nodata=3,
        names="RGBN",
        **tiled,
    )
    write(
        folder / "mask.tif",
        bands(3, 61, 83, "uint8", 256),
        mask=mask,
        overviews=[2],
        photometric="rgb",
        **tiled,
    )
    write(
        folder / "float.tif", bands(12, 33, 20, "float32"), compress="deflate", predictor=3, interleave="band"
    )
    write(folder / "palette.tif", bands(1, 40, 30, "uint8", 3), palette=palette)
    write(
        folder / "wide.tif",
        bands(1, 40, 30, "uint16", 300),
        mask=bands(1, 40, 30, "uint8", 2)[0] * np.uint8(255),
    )
    write(
        folder / "place.jp2",
        bands(3, 130, 90, "uint16", 4096),
        driver="JP2OpenJPEG",
        QUALITY="100",
        REVERSIBLE="YES",
    )
    write(folder / "erdas.img", bands(2, 70, 50, "int16"), driver="HFA")
    write(folder / "tiles" / "one.tif", bands(2, 70, 40, "uint16"))
    vrt(folder / "mosaic.vrt", "tiles/one.tif")
    (folder / "colours.vrt").write_text(VRT.format(bands=COLOURS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        write(
            folder / "plain.jp2",
            bands(1, 50, 40, "uint8", 256),
            driver="JP2OpenJPEG",
            crs=None,
            transform=None,
        )
    return {path.name: path for path in folder.iterdir() if path.is_file()}


def whole(path: Path, level: int) -> np.ndarray:
    """Return all samples as rasterio reads them, with the mask as a last band, and colours in the place of indices."""
    more = {} if level == 0 else {"overview_level": level - 1}
    with rasterio.open(path, **more) as file:
        samples = file.read()
        if file.colorinterp[0] == ColorInterp.palette:
            colours = file.colormap(1)
            rows = [[colours[int(index)] for index in row] for row in samples[0]]
            return np.array(rows, np.uint8).transpose(2, 0, 1)[: 4 if path.suffix == ".vrt" else 3]
        if MaskFlags.per_dataset in file.mask_flag_enums[0]:
            top = np.iinfo(samples.dtype).max
            samples = np.concatenate(
                [samples, np.where(file.dataset_mask()[None], top, 0).astype(samples.dtype)]
            )
        return samples


FILES = [
    "cog.tif",
    "mask.tif",
    "float.tif",
    "palette.tif",
    "wide.tif",
    "place.jp2",
    "erdas.img",
    "mosaic.vrt",
    "colours.vrt",
]


@pytest.mark.parametrize("name", FILES)
def test_regions_are_crops_of_the_whole_at_each_level(files, name):
    with READER.open(files[name], None) as image:
        for level, (rows, columns) in enumerate(image.info.levels):
            expected = whole(files[name], level)
            assert (image.info.bands, rows, columns) == expected.shape
            places = [
                (0, 0, rows, columns),
                (rows - 1, columns - 1, 1, 1),
                (rows // 3, 1, rows // 2, columns - 1),
                (5, 3, 0, 4),
            ]
            for top, left, height, width in places:
                region = Region((top, left), (height, width))
                samples = image.read(region, level)
                assert samples.dtype == image.info.dtype == expected.dtype
                assert samples.tobytes() == expected[region.last_dims].tobytes()


def test_headers(files):
    found = {}
    for name in FILES:
        with READER.open(files[name], None) as image:
            found[name] = image.info
    assert found["cog.tif"].levels == ((150, 131), (75, 66), (38, 33))
    assert (found["cog.tif"].nodata, found["cog.tif"].names) == (3, tuple("RGBN"))
    assert found["mask.tif"].roles == ("red", "green", "blue", "alpha")
    assert found["palette.tif"].roles == ("red", "green", "blue")
    assert found["colours.vrt"].roles == ("red", "green", "blue", "alpha")
    assert found["wide.tif"].roles == ("grey", "alpha")
    assert found["place.jp2"].bits == 12 or found["place.jp2"].dtype == "uint16"
    assert found["mosaic.vrt"].nodata == 7
    for name in ("cog.tif", "place.jp2", "erdas.img"):
        place = found[name].georeference
        assert np.allclose(place.transform, TURNED[:6], rtol=0, atol=1e-9)
        assert np.allclose(place.ground(3, 4), TURNED @ (3, 4), rtol=0, atol=1e-9)
        assert rasterio.crs.CRS.from_wkt(place.crs).to_epsg() == 32632


def test_which_files_are_for_this_reader(files):
    def recognised(path: Path) -> bool:
        with path.open("rb") as file:
            return READER.recognises(path, file.read(64))

    assert [name for name in sorted(files) if recognised(files[name])] == [
        "colours.vrt",
        "erdas.img",
        "mosaic.vrt",
        "place.jp2",
    ]


def test_threads_read_at_once(files):
    expected, faults = whole(files["cog.tif"], 1), []

    def read(image, number):
        for top in range(number, 60, 7):
            region = Region((top, number), (9, 40))
            if not np.array_equal(image.read(region, 1), expected[region.last_dims]):
                faults.append(region)

    with READER.open(files["cog.tif"], None) as image:
        threads = [threading.Thread(target=read, args=(image, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not faults


def _read_inherited(workers, image, expected):
    """Read by an image that the parent has opened and read from."""
    for top in range(workers.rank, 100, 7):
        region = Region((top, 3), (30, 70))
        assert np.array_equal(image.read(region), expected[region.last_dims])
    return os.getpid()


def test_forked_processes_open_their_own(files):
    expected = whole(files["cog.tif"], 0)
    with READER.open(files["cog.tif"], None) as image:
        image.read(Region((0, 0), (100, 100)))
        assert len(set(run_ranks(_read_inherited, 2, args=(image, expected)))) == 2


NETWORK = '<VRTRasterBand dataType="Byte" band="3"><SimpleSource><SourceFilename>{}</SourceFilename></SimpleSource></VRTRasterBand>'


@pytest.mark.parametrize(
    ("source", "more", "said"),
    [
        ("gone.tif", "", "gone.tif is not there"),
        ("one.tif", NETWORK.format("/vsicurl/http://localhost:9/x.tif"), "no image file here"),
        ("one.tif", NETWORK.format("http://localhost:9/x.tif"), "no image file here"),
        ("one.tif", NETWORK.format("&lt;GDAL_WMS&gt;&lt;/GDAL_WMS&gt;"), "no image file here"),
        ("one.tif", NETWORK.format("WMS:somewhere"), "is not there"),
        ("one.tif", NETWORK.format("service.xml"), "no image file here"),
        ("one.tif", "<Metadata><MDI key='X_DATASET'>/vsis3/a/b</MDI></Metadata>", "no image file here"),
        ("self.vrt", "", "in a circle"),
        ("one.tif", "<!-- - -", "no sound VRT"),
        (
            "one.tif",
            '<VRTRasterBand dataType="Byte" band="3" subClass="VRTRawRasterBand"><SourceFilename>/etc/passwd</SourceFilename>'
            "<ImageOffset>0</ImageOffset></VRTRasterBand>",
            "outside of its folder",
        ),
    ],
)  # fmt: skip
def test_a_vrt_names_nothing_but_files(tmp_path, monkeypatch, source, more, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.tif").write_bytes(b"II*\0")
    (tmp_path / "service.xml").write_text("<GDAL_WMS></GDAL_WMS>")
    with pytest.raises(UserError, match=said) as caught:
        READER.open(vrt(tmp_path / "self.vrt", source, more), None).__enter__()
    assert len(caught.value.faults) == 1
    assert "self.vrt" in str(caught.value)


def test_an_entity_is_refused(tmp_path):
    (tmp_path / "bomb.vrt").write_text("<VRTDataset/>".join(['<!DOCTYPE v [<!ENTITY a "b">]>', ""]))
    with pytest.raises(UserError, match="declares XML entities"):
        READER.open(tmp_path / "bomb.vrt", None).__enter__()


@pytest.mark.parametrize("name", ["cog.tif", "place.jp2", "erdas.img", "mosaic.vrt"])
def test_damaged_files_give_one_message(files, tmp_path, name):
    path, messages = tmp_path / name, []
    for damaged in mutations(files[name].read_bytes(), 3, 30):
        path.write_bytes(damaged)
        messages.append(_read_all(path))
    messages = [error for error in messages if error is not None]
    assert messages
    assert all(len(error.faults) == 1 and name in str(error) for error in messages)
    assert not any("previous exception" in str(error) for error in messages)


def _read_all(path: Path) -> UserError | None:
    try:
        with READER.open(path, None) as image:
            if max(image.info.extent) < 1000:
                image.read(Region.whole(image.info.extent))
    except UserError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [("complex.tif", {}, "complex samples"), ("cog.tif", {"page": 2}, "one page")],
)
def test_what_is_no_picture_is_refused(files, tmp_path, name, options, said):
    path = files.get(name, tmp_path / name)
    if not path.exists():
        write(path, bands(1, 5, 4, "complex64"))
    with pytest.raises(UserError, match=said):
        READER.open(path, options.get("page")).__enter__()


def test_no_files_beside_an_image_are_read_or_written(files, tmp_path):
    path = tmp_path / "alone.tif"
    path.write_bytes(files["cog.tif"].read_bytes())
    (tmp_path / "alone.tif.aux.xml").write_text(
        dedent(
            """<PAMDataset><PAMRasterBand band="1"><Description>other</Description></PAMRasterBand></PAMDataset>"""
        )
    )
    with READER.open(path, None) as image:
        assert image.info.names == tuple("RGBN")
    assert len(list(tmp_path.iterdir())) == 2
