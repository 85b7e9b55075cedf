"""The body of a request, within bounds: its bytes, the seconds that it takes, and the fields of a form are limited while it comes.

Nothing is decoded here: an image is known by its first bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from ziggurat.config.serve_config import ServeConfig, format_of_bytes
from ziggurat.serving.exchange import Refused

FIELDS = 8  # of a form beside its file
FIELD_BYTES = 1024  # of each
NAME_LETTERS = 100  # of a file's name that is kept


@dataclass(frozen=True)
class Upload:
    """An image as it has come.

    Attributes:
        data: The bytes of its file.
        name: What its sender calls it, without folders.
        fields: Of the form.
    """

    data: bytes
    name: str
    fields: Mapping[str, str]


async def read_body(request: Request, config: ServeConfig) -> bytes:
    """Return the body of a request.

    Raises:
        Refused: If it has too many bytes, is compressed, or has not come in time.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refused(
            415, f"a body must come as it is: got content-encoding {_shown(encoding)}; send it uncompressed"
        )
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdecimal() and int(declared[:20]) > config.max_bytes:
        raise _too_large(config)
    body = bytearray()
    try:
        async with asyncio.timeout(config.upload_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > config.max_bytes:
                    raise _too_large(config)
    except TimeoutError:
        raise Refused(
            408,
            f"a body must have come within {config.upload_seconds:g} s (--upload-seconds): got {len(body)} bytes; send it faster",
        ) from None
    except ClientDisconnect:
        raise Refused(400, "the body has ended before its end: send all of it") from None
    if declared.isascii() and declared.isdecimal() and len(body) < int(declared[:20]):
        raise Refused(
            400,
            f"the body has {len(body)} bytes, less than its content-length {_shown(declared)}: send all of it",
        )
    return bytes(body)


def _too_large(config: ServeConfig) -> Refused:
    return Refused(
        413,
        f"a body may have {config.max_bytes} bytes (--max-bytes): it has more; send a smaller image, or ask for a job",
    )


async def read_upload(request: Request, config: ServeConfig) -> Upload:
    """Return the image of a request: its body, or the file of a form.

    Raises:
        Refused: As `read_body`; or if it is no image of a format that is taken, or no form with one file.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, config)
    if kind == "multipart/form-data":
        upload = await _of_form(request.headers, body)
    else:
        upload = Upload(body, safe_name(request.query_params.get("name", "")), {})
    check_format(upload.data, config)
    return upload


def check_format(data: bytes, config: ServeConfig) -> str:
    """Return the format of an image by its first bytes.

    Raises:
        Refused: If it is none that is taken.
    """
    taken = config.known_formats()
    found = format_of_bytes(data[:16])
    if found not in taken:
        what = "no bytes" if not data else f"{found}" if found else "none of them"
        raise Refused(
            415,
            f"an image must be {', '.join(taken)} by the bytes that it begins with: got {what}; convert it",
        )
    return found


def safe_name(name: str, otherwise: str = "image") -> str:
    r"""Return a file name without folders and signs that mean something to anybody.

    Example:
        >>> safe_name("../../etc/passwd"), safe_name(r"C:\a b.png"), safe_name("..")
        ('passwd', 'a_b.png', 'image')
    """
    last = re.split(r"[/\\]", name)[-1]
    kept = re.sub(r"[^\w.-]", "_", last[:NAME_LETTERS], flags=re.ASCII).lstrip(".-")
    return kept or otherwise


async def _of_form(headers: Headers, body: bytes) -> Upload:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = MultiPartParser(headers, stream(), max_files=1, max_fields=FIELDS, max_part_size=FIELD_BYTES)
    try:
        form: FormData = await parser.parse()
    except (MultiPartException, FormParserError, KeyError, ValueError, UnicodeError) as error:
        message = getattr(error, "message", "") or str(error)
        raise Refused(
            400,
            f"a form must have one file and at most {FIELDS} fields of {FIELD_BYTES} bytes: {_shown(message)}",
        ) from None
    async with _closing(form):
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise Refused(400, f"a form must have one file: got {len(files)}; curl has -F image=@FILE for it")
        fields = {key: value for key, value in form.items() if isinstance(value, str)}
        return Upload(await files[0].read(), safe_name(files[0].filename or ""), fields)


class _closing:  # noqa: N801 - as contextlib.aclosing
    def __init__(self, form: FormData) -> None:
        self._form = form

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *error: object) -> None:
        await self._form.close()


def _shown(text: str) -> str:
    """Return what others have sent, short and on one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:100])
