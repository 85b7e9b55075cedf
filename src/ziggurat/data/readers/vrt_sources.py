"""What a VRT is made of: other files, which must be on this machine.

A VRT is text that names its sources, and GDAL opens whatever is named: a server, an archive, a service. An image that
somebody has sent must not make us do that, so its text is read before GDAL sees it.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from ziggurat.data.plain_xml import parse_xml
from ziggurat.errors import UserError

HEAD = b"<VRTDataset"
MAX_BYTES = 256 << 20
_NAMES_FILES = ("SourceFilename", "SourceDataset")
_FREE_TEXT = ("MDI", "SRS", "Description", "Category", "GCPProjection")
_ELSEWHERE = re.compile(r"/vsi|://|^\s*<")
_DEEPEST = 8


def check_sources(path: Path, depth: int = 0) -> None:
    """See that a VRT, and those that it is made of, name nothing but files that are there.

    Raises:
        UserError: If they name anything else; names the file and what it names.
    """
    root = _parsed(path)
    raw = {id(part) for band in root.iter("VRTRasterBand") if _is_raw(band) for part in band.iter()}
    for part in root.iter():
        text = (part.text or "").strip()
        if part.tag in _NAMES_FILES:
            _check_source(path, part, text, id(part) in raw, depth)
        elif "/vsi" in text or (part.tag not in _FREE_TEXT and _ELSEWHERE.search(text)):
            raise UserError(_refusal(path, text))


def _parsed(path: Path) -> Element:
    if path.stat().st_size > MAX_BYTES:
        raise UserError(
            f"cannot read the image {path}: a VRT of more than {MAX_BYTES >> 20} MiB; make it of fewer sources"
        )
    try:
        return parse_xml(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"cannot read the image {path}: it is no sound VRT ({error}); make it again"
        ) from None


def _is_raw(band: Element) -> bool:
    return band.get("subClass") == "VRTRawRasterBand"


def _check_source(path: Path, part: Element, text: str, is_raw: bool, depth: int) -> None:
    if _ELSEWHERE.search(text):
        raise UserError(_refusal(path, text))
    source = path.parent / text if part.get("relativeToVRT") == "1" else Path(text)
    if not source.is_file():
        raise UserError(
            f"cannot read the image {path}: its source {source} is not there; put it there, or make the VRT again"
        )
    if is_raw and path.resolve().parent not in source.resolve().parents:
        raise UserError(
            f"cannot read the image {path}: its raw source {source} lies outside of its folder; put it there"
        )
    with source.open("rb") as file:
        head = file.read(64).lstrip()
    if head.startswith(HEAD):
        if depth == _DEEPEST:
            raise UserError(
                f"cannot read the image {path}: VRTs of VRTs more than {_DEEPEST} deep, or in a circle; flatten them"
            )
        check_sources(source, depth + 1)
    elif head.startswith(b"<"):
        raise UserError(_refusal(path, str(source)))


def _refusal(path: Path, text: str) -> str:
    return f"cannot read the image {path}: it names {text[:200]!r}, which is no image file here; fetch it, and name the file"
