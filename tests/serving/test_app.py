"""The door over HTTP: routes, limits, the queue, what is logged and counted; without Ray."""

import asyncio
import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from support.served import HeldEngine, listening, png
from ziggurat.serving.exchange import ARRAYS, PICTURE, Ask

ALL = {"output": "all"}


@pytest.fixture
def client(live):
    with httpx.Client(base_url=live.url, timeout=60) as found:
        yield found


class TestPredict:
    @pytest.mark.parametrize("task", ["detect", "classify", "segment"])
    def test_an_answer_is_the_replicas(self, client, replicas, task):
        (expected,) = replicas[task].answer([Ask("", png(3), "a b.png".replace(" ", "_"))])
        answer = client.post("/predict", params={"model": task, "name": "a b.png"}, content=png(3))
        assert answer.status_code == 200
        assert answer.json() == json.loads(json.dumps(expected.rows))

    def test_a_form_is_what_a_body_is(self, client):
        body = client.post("/predict", params={"name": "x.png"}, content=png(0))
        form = client.post("/predict", files={"image": ("dir/x.png", png(0), "image/png")}, data={"a": "b"})
        assert form.json() == body.json()

    def test_pictures_and_masks_are_files(self, client, replicas):
        (expected,) = replicas["segment"].answer([Ask("", png(3), "image", frozenset({PICTURE}))])
        picture = client.post("/predict", params={"model": "segment", "output": "picture"}, content=png(3))
        assert picture.content == expected.picture
        assert picture.headers["content-type"] == "image/png"
        mask = client.post("/predict", params={"model": "segment", "output": "mask"}, content=png(3))
        assert Image.open(io.BytesIO(mask.content)).size == (90, 150)
        every = client.post("/predict", params={"model": "segment", "output": "all"}, content=png(3)).json()
        assert base64.b64decode(every["picture"]) == picture.content
        assert base64.b64decode(every["mask"]) == mask.content

    def test_masks_are_of_models_that_have_them(self, client):
        answer = client.post("/predict", params={"model": "detect", "output": "mask"}, content=png(0))
        assert answer.status_code == 400

    @pytest.mark.parametrize(
        ("params", "status"),
        [({"model": "detekt"}, 404), ({"output": "xml"}, 400), ({"model": "../detect"}, 404)],
    )
    def test_what_there_is_not_is_said(self, client, params, status):
        answer = client.post("/predict", params=params, content=png(0))
        assert answer.status_code == status
        assert set(answer.json()) == {"error", "request"}

    def test_several_at_once_have_the_answers_of_one(self, client):
        alone = [client.post("/predict", content=png(index)).json() for index in range(4)]
        with ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(lambda index: client.post("/predict", content=png(index % 4)).json(), range(12))
            )
        assert found == [alone[index % 4] for index in range(12)]


class TestTriton:
    """The protocol by a client that we have not written."""

    @pytest.fixture
    def triton(self, live):
        with triton.InferenceServerClient(f"127.0.0.1:{live.port}") as found:
            yield found

    def test_health_and_metadata(self, triton, replicas):
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.get_server_metadata()["name"] == "ziggurat"
        assert {one["name"] for one in triton.get_model_repository_index()} == set(replicas)
        for name, replica in replicas.items():
            assert triton.is_model_ready(name)
            assert triton.is_model_ready(name, "1")
            known = triton.get_model_metadata(name)
            assert known["parameters"]["weights_sha256"] == replica.card.weights_sha256
        with pytest.raises(InferenceServerException, match="there is no model"):
            triton.is_model_ready("none") or triton.get_model_metadata("none")

    @pytest.mark.parametrize("is_binary", [True, False])
    @pytest.mark.parametrize("task", ["detect", "classify", "segment"])
    def test_files_give_the_replicas_arrays(self, triton, replicas, task, is_binary):
        indices = [0, 3, 2]
        expected = [
            replicas[task].answer([Ask("", png(index), "", frozenset({ARRAYS}))])[0] for index in indices
        ]
        given = triton_input([png(index) for index in indices])
        names = [name for name, _, _ in replicas[task].card.arrays]
        outputs = [make_output(name, is_binary) for name in names]
        found = triton.infer(task, [given], outputs=outputs, request_id="mine")
        assert found.get_response()["id"] == "mine"
        for name in names:
            whole = found.as_numpy(name)
            for place, one in enumerate(expected):
                own = one.arrays[name]
                slices = (place, *(slice(size) for size in own.shape))
                np.testing.assert_array_equal(whole[slices], own, strict=True)
                rest = np.array(whole[place])
                rest[slices[1:]] = 0
                assert not np.any(rest)

    def test_all_outputs_come_if_none_is_named(self, triton, replicas):
        found = triton.infer("detect", [triton_input([png(0)])])
        names = {one["name"] for one in found.get_response()["outputs"]}
        assert names == {"predictions", *(name for name, _, _ in replicas["detect"].card.arrays)}
        rows = json.loads(found.as_numpy("predictions")[0])
        assert len(rows) == found.as_numpy("count")[0]

    @pytest.mark.parametrize("is_binary", [True, False])
    def test_pixels_are_what_their_file_is(self, triton, is_binary):
        pixels = np.asarray(Image.open(io.BytesIO(png(0))))
        given = make_pixels(pixels[None], is_binary)
        file, array = (triton.infer("detect", [one]) for one in (triton_input([png(0)]), given))
        for name in ("boxes_xyxy", "scores", "labels"):
            np.testing.assert_array_equal(file.as_numpy(name), array.as_numpy(name))


def triton_input(files):
    given = triton.InferInput("image", [len(files)], "BYTES")
    given.set_data_from_numpy(np.array(files, dtype=object))
    return given


def make_output(name, is_binary):
    return triton.InferRequestedOutput(name, binary_data=is_binary)


def make_pixels(pixels, is_binary):
    given = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels, binary_data=is_binary)
    return given


@pytest.fixture
def held():
    """A server whose model answers when it is let go."""
    engine = HeldEngine()
    with listening(engine, queue=3, uploads=8, seconds=20) as found:
        found.engine = engine
        yield found
        found.loop.call_soon_threadsafe(engine.go.set)


def wait_for(live, count):
    """Wait until the model was asked for some images: the door's own loop looks."""

    async def look():
        while len(live.engine.asked) < count:
            await asyncio.sleep(0.005)

    asyncio.run_coroutine_threadsafe(look(), live.loop).result(30)


class TestBounds:
    def test_a_full_queue_is_said_at_once_and_empties(self, held):
        with httpx.Client(base_url=held.url, timeout=60) as client, ThreadPoolExecutor(3) as pool:
            first = [pool.submit(client.post, "/predict", content=png(0)) for _ in range(3)]
            wait_for(held, 3)
            for _ in range(5):
                answer = client.post("/predict", content=png(0))
                assert answer.status_code == 429
                assert answer.headers["retry-after"] == "1"
            assert len(held.engine.asked) == 3
            assert counted(client)["ziggurat_requests_under_way", "held"] == 3
            held.loop.call_soon_threadsafe(held.engine.go.set)
            assert [one.result().status_code for one in first] == [200] * 3
            assert client.post("/predict", content=png(0)).status_code == 200
            assert counted(client)["ziggurat_requests_under_way", "held"] == 0

    def test_a_request_that_takes_too_long_is_given_up(self):
        engine = HeldEngine()
        with listening(engine, seconds=0.2) as live:
            answer = httpx.post(f"{live.url}/predict", content=png(0))
            assert answer.status_code == 504
            live.loop.call_soon_threadsafe(engine.go.set)
            assert httpx.post(f"{live.url}/predict", content=png(0)).status_code == 200

    def test_draining_answers_what_is_under_way_and_nothing_else(self, held):
        with httpx.Client(base_url=held.url, timeout=60) as client, ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.post, "/predict", content=png(0))
            wait_for(held, 1)
            draining = asyncio.run_coroutine_threadsafe(held.door.drain(), held.loop)
            while not held.door.is_draining:
                pass
            assert client.post("/predict", content=png(0)).status_code == 503
            assert client.get("/v2/health/ready").status_code == 503
            assert client.get("/v2/health/live").status_code == 200
            assert not draining.done()
            held.loop.call_soon_threadsafe(held.engine.go.set)
            assert first.result().status_code == 200
            draining.result(30)

    def test_what_nobody_has_foreseen_is_500_with_its_trace_in_the_log(self, held):
        held.engine.fault = ZeroDivisionError("secret")
        held.loop.call_soon_threadsafe(held.engine.go.set)
        answer = httpx.post(f"{held.url}/predict", content=png(0), headers={"x-request-id": "abc"})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        line = held.logged("abc")
        assert "secret" in line["fault"]
        assert line["request"] == "abc" == answer.json()["request"] == answer.headers["x-request-id"]


def counted(client):
    """Return every counter by its name and its label that is not the status."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            found[sample.name, "/".join(sample.labels.values())] = sample.value
    return found


def test_requests_are_counted_and_logged(live, client):
    before = counted(client)
    answer = client.post("/predict", content=png(0))
    client.get("/somewhere/else")
    client.get("/somewhere/again")
    after = counted(client)
    key = ("ziggurat_requests_total", "/predict/200")
    assert after[key] == before.get(key, 0) + 1
    assert after["ziggurat_requests_total", "other/404"] >= 2
    assert not any("somewhere" in label for _, label in after)
    line = live.logged(answer.headers["x-request-id"])
    assert (line["method"], line["path"], line["status"]) == ("POST", "/predict", 200)


def test_ids_that_are_no_ids_are_replaced(client):
    answer = client.get("/v2", headers={"x-request-id": 'a"} {"b'})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_the_page_and_its_parts(client):
    assert "<h1>Ziggurat</h1>" in client.get("/").text
    for name in re.findall(r'(?:href|src)="(page\.\w+)"', client.get("/").text):
        assert client.get(f"/{name}").status_code == 200
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]
