"""Uploads that mean harm: each is answered by a 4xx with one message, within bounds of memory, and nothing beyond the limits is decoded."""

import io
import json
import random
import resource
import socket
import struct
import threading
import time
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from support.served import HeldEngine, LocalEngine, listening, png, served
from ziggurat.config.serve_config import SIGNATURES, ServeConfig, format_of_bytes
from ziggurat.serving.protocol import HEADER_LENGTH, JSON_BYTES
from ziggurat.serving.receiving import safe_name
from ziggurat.serving.replica import Replica

LIMITS = {"max_bytes": 1 << 20, "max_pixels": 1 << 16, "upload_seconds": 2.0, "uploads": 8}


@pytest.fixture(scope="module")
def guarded(runs):
    """A server with narrow limits."""
    replica = Replica(served(runs["detect"]), ServeConfig(**LIMITS))
    with listening(LocalEngine([replica]), **LIMITS) as live:
        yield live
    replica.close()


@pytest.fixture
def client(guarded):
    with httpx.Client(base_url=guarded.url, timeout=60) as found:
        yield found


def is_refused(answer):
    """Whether an answer is a 4xx with one message that shows nothing of the server."""
    tree = answer.json()
    known = set(tree) == {"error", "request"} and tree["error"]
    return (
        400 <= answer.status_code < 500
        and known
        and "Traceback" not in tree["error"]
        and "/tmp" not in tree["error"]
    )


def still_answers(client):
    return client.post("/predict", content=png(0)).status_code == 200


def encoded(kind, size=(40, 40), **options):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, data=b"", more=b"", depth=8, colour=2):
    """A PNG whose header says what we like."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(data, 1)) + chunk(b"IEND", b"")


def tiff_of(entries):
    """A little-endian TIFF of one directory with LONG entries."""
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + rows + struct.pack("<I", 0)


def truncations():
    """Every format, cut at many places."""
    draw = random.Random(0)
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        whole = encoded(kind, size=(64, 64))
        for _ in range(40):
            yield f"{kind} truncated", whole[: draw.randrange(2, max(3, len(whole) // 2))]


def headers():
    """What a file says that it does not hold."""
    for side in (1 << 10, 1 << 14, 1 << 20, (1 << 31) - 1):
        yield "PNG bomb", png_of(side, side)
        yield "PNG wide bomb", png_of(side, 65)
    yield "PNG of zeros that inflates", png_of(20_000, 20_000, bytes(1 << 24))
    for text in (b"zTXt", b"iCCP"):
        yield "PNG text bomb", png_of(300, 300, b"", chunk(text, b"k\0\0" + zlib.compress(bytes(1 << 25), 1)))
    for width, height in ((1 << 20, 1 << 20), (0, 5), (1 << 31, 1 << 31), (1, 1 << 30)):
        usual = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height or 1, 279: 64}
        yield "TIFF bomb", tiff_of(usual)
        yield "TIFF tile bomb", tiff_of(usual | {322: 1 << 20, 323: 1 << 20, 324: 8, 325: 64})
    yield "TIFF in a circle", b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8)
    head = b"BM" + struct.pack("<IHHI", 100, 0, 0, 54)
    for side in (1 << 14, (1 << 31) - 1, -(1 << 31)):
        yield (
            "BMP bomb",
            head + struct.pack("<IiiHHIIiiII", 40, abs(side) % (1 << 31) or 7, side, 1, 24, 0, 0, 0, 0, 0, 0),
        )


def kinds():
    """What is no image, or of a format that is not taken."""
    for body in (
        b"", b"x", b"\0" * 5000, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"PK\x03\x04", b"%PDF-1.7",
        b"<VRTDataset><VRTRasterBand><SimpleSource><SourceFilename>/etc/passwd</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
        b"GIF89a" + b"\0" * 50, b"\x80\x04\x95pickle", b"\x1f\x8b" + b"\0" * 50, b"/etc/passwd", json.dumps({"image": "/etc/passwd"}).encode(),
    ):  # fmt: skip
        yield "wrong kind", body
    draw = random.Random(1)
    for signatures in SIGNATURES.values():
        for start, magic in signatures:
            for _ in range(12):
                noise = bytearray(draw.randbytes(draw.randrange(20, 4000)))
                noise[start : start + len(magic)] = magic
                yield "noise behind a signature", bytes(noise)


def flipped():
    """Sound files some of whose bits are turned: either an image, or refused."""
    draw = random.Random(2)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        whole = bytearray(encoded(kind))
        for _ in range(12):
            one = bytearray(whole)
            for _ in range(8):
                one[draw.randrange(4 if kind != "WEBP" else 12, len(one))] ^= 1 << draw.randrange(8)
            yield "flipped bits", bytes(one)


def test_broken_files_are_refused(client):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    number = 0
    for what, body in [*truncations(), *headers(), *kinds()]:
        answer = client.post("/predict", content=body)
        assert is_refused(answer), f"{what}: {answer.status_code} {answer.text[:300]}"
        number += 1
    assert number > 300
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 256, f"{grown:.0f} MiB"
    assert still_answers(client)


def test_broken_files_within_the_protocol_are_refused(client):
    for what, body in [*list(truncations())[::8], *headers()]:
        answer = infer(client, body)
        assert is_refused(answer), f"{what}: {answer.status_code} {answer.text[:300]}"
    assert still_answers(client)


def test_flipped_bits_are_an_image_or_refused(client):
    for _, body in flipped():
        answer = client.post("/predict", content=body)
        assert answer.status_code == 200 or is_refused(answer), answer.text
    assert still_answers(client)


def infer(client, file, size=None):
    raw = struct.pack("<I", len(file)) + file
    tree = {
        "inputs": [
            {
                "name": "image",
                "datatype": "BYTES",
                "shape": [1],
                "parameters": {"binary_data_size": len(raw) if size is None else size},
            }
        ]
    }
    head = json.dumps(tree).encode()
    return client.post("/v2/models/detect/infer", content=head + raw, headers={HEADER_LENGTH: str(len(head))})


@pytest.mark.parametrize(
    "tree",
    [
        None, [], 5, {}, {"inputs": []}, {"inputs": {}}, {"inputs": [5]}, {"inputs": [{}, {}]}, {"inputs": [{"name": "image"}]},
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["x"]}]},
        {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": [1]}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 11}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [256] * 12}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 4], "data": [0] * 16}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1 << 62, 1 << 62, 1 << 62, 3], "data": []}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, -1, -1, 3], "data": []}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, True, 2, 3], "data": [0] * 6}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [], "data": []}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "parameters": 5, "data": [0] * 3}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "parameters": {"binary_data_size": "9"}}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0] * 3}], "outputs": [{"name": "none"}]},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0] * 3}], "outputs": 5},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0] * 3}], "outputs": [{"name": "scores"}] * 99},
        {"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0] * 3}], "id": {}},
    ],
)  # fmt: skip
def test_what_is_not_of_the_protocol_is_refused(client, tree):
    answer = client.post("/v2/models/detect/infer", json=tree)
    assert is_refused(answer), answer.text


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"{", None), (b"[" * 100_000, None), (b"\xff\xfe", None), (b"{}", "5"), (b"{}", "-1"), (b"{}", "9" * 400), (b"{}", "\xb2"),
        (b'{"id": ' + b"9" * 100_000 + b"}", None), (b'{"a": 1e999999}', None),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(client, body, length):
    headers = {} if length is None else {HEADER_LENGTH.encode(): length.encode("latin-1")}
    assert is_refused(client.post("/v2/models/detect/infer", content=body, headers=headers))


def test_sizes_that_do_not_fit_are_refused(client):
    for size in (0, 1, 1 << 40, -5):
        assert is_refused(infer(client, png(0), size))
    lying = struct.pack("<I", 1 << 31) + png(0)
    tree = {
        "inputs": [
            {
                "name": "image",
                "datatype": "BYTES",
                "shape": [1],
                "parameters": {"binary_data_size": len(lying)},
            }
        ]
    }
    head = json.dumps(tree).encode()
    answer = client.post(
        "/v2/models/detect/infer", content=head + lying, headers={HEADER_LENGTH: str(len(head))}
    )
    assert is_refused(answer)
    many = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1 << 30]}]}
    assert client.post("/v2/models/detect/infer", json=many).status_code == 413


class TestForms:
    def test_thousands_of_fields_are_refused(self, client):
        body = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nv\r\n' % n for n in range(5000)
        )
        answer = client.post(
            "/predict",
            content=body + b"--x--\r\n",
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
        assert is_refused(answer)
        assert answer.status_code == 400

    def test_many_files_and_none_are_refused(self, client):
        files = [("image", (f"{n}.png", png(0), "image/png")) for n in range(3)]
        assert is_refused(client.post("/predict", files=files))
        assert is_refused(client.post("/predict", data={"a": "b"}))
        assert is_refused(
            client.post("/predict", files={"x": (None, "y" * 5000), "image": ("a.png", png(0))})
        )

    @pytest.mark.parametrize(
        "kind",
        [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=" + "x" * 5000,
        ],
    )
    @pytest.mark.parametrize(
        "body", [b"", b"--x", b"--x\r\n\r\n", b"\0" * 1000, b"--x\r\n" + b"A: b\r\n" * 5000]
    )
    def test_broken_forms_are_refused(self, client, kind, body):
        assert is_refused(client.post("/predict", content=body, headers={"content-type": kind}))

    def test_a_header_of_a_part_without_end_is_refused(self, client):
        body = b'--x\r\nContent-Disposition: form-data; name="' + b"a" * 900_000 + b'"\r\n\r\n\r\n--x--\r\n'
        answer = client.post(
            "/predict", content=body, headers={"content-type": "multipart/form-data; boundary=x"}
        )
        assert is_refused(answer)

    @pytest.mark.parametrize(
        "name", ["../../etc/passwd", "/etc/passwd", "a\0b", "..", "C:\\x", "x" * 5000, "", "%2e%2e%2f"]
    )
    def test_names_of_files_are_names(self, client, name):
        answer = client.post("/predict", params={"name": name}, content=png(0))
        assert answer.status_code == 200
        found = {row["file_name"] for row in answer.json()}
        assert found == {safe_name(name)}
        assert all(
            "/" not in one and "\\" not in one and len(one) <= 100 and not one.startswith(".")
            for one in found
        )


class TestBodies:
    def test_a_body_of_too_many_bytes_is_refused_before_it_comes(self, guarded):
        with socket.create_connection(("127.0.0.1", guarded.port), 20) as one:
            one.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
            assert b" 413 " in one.recv(100)

    def test_a_body_that_grows_too_large_is_refused(self, client):
        def grows():
            for _ in range(100):
                yield bytes(1 << 16)

        assert client.post("/predict", content=grows()).status_code == 413

    @pytest.mark.parametrize("kind", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
    def test_compressed_bodies_are_refused(self, client, kind):
        answer = client.post(
            "/predict", content=zlib.compress(bytes(1 << 20)), headers={"content-encoding": kind}
        )
        assert answer.status_code == 415

    def test_slow_senders_are_given_up_and_hold_no_place(self, guarded, client):
        slow = [socket.create_connection(("127.0.0.1", guarded.port), 20) for _ in range(LIMITS["uploads"])]
        for one in slow:
            one.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n" + png(0)[:10])
        answers = [client.post("/predict", content=png(0)).status_code]
        answers += [int(one.recv(4096).split(b" ", 2)[1]) for one in slow]
        for one in slow:
            one.close()
        assert set(answers[1:]) <= {408, 503}
        assert answers.count(408) >= LIMITS["uploads"] - 1
        assert answers[0] in (200, 503)
        assert still_answers(client)

    def test_senders_that_go_away_are_forgotten(self, guarded, client):
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", guarded.port), 20) as one:
                one.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\nabc")
        assert wait_until(
            lambda: still_answers(client)
        )  # 503 as long as more than eight of them are being received
        assert wait_until(lambda: not guarded.door._uploads)

    def test_what_is_no_http_ends_the_connection(self, guarded, client):
        for words in (
            b"\0\1\2\3\r\n\r\n",
            b"GET\r\n\r\n",
            b"POST /predict HTTP/9.9\r\n\r\n",
            b"A" * 100_000 + b"\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", guarded.port), 20) as one:
                one.sendall(words)
                assert one.recv(200).startswith((b"HTTP/1.1 4", b""))
        assert still_answers(client)


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        threading.Event().wait(0.01)
    return True


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.js/../../app.py",
        "/jobs/../../etc",
        "/v2/models/../../x/infer",
    ],
)
def test_paths_lead_nowhere(client, path):
    answer = client.get(path)
    assert answer.status_code in (404, 405)
    assert "root:" not in answer.text


def test_signatures_tell_formats():
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        assert format_of_bytes(encoded(kind)[:16]) == kind.lower()


def test_json_has_a_bound_of_its_own():
    with listening(HeldEngine()) as live:
        answer = httpx.post(
            f"{live.url}/v2/models/held/infer", content=b"[" + b"0," * (JSON_BYTES // 2) + b"0]"
        )
        assert answer.status_code == 413
