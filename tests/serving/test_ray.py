"""The command on Ray Serve: one server for all of this module, whose processes are killed one after the other under load, and then stopped."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from support.served import png, served
from ziggurat.commands.predict import predict
from ziggurat.config.serve_config import ServeConfig
from ziggurat.serving.exchange import Ask
from ziggurat.serving.replica import Replica

pytestmark = pytest.mark.timeout(900)
PATIENCE = 420  # seconds, on a machine with other work
REPLICA, DOOR, PROXY = (
    "ray::ServeReplica:ziggurat:detect",
    "ray::ServeReplica:ziggurat:door",
    "ray::ProxyActor",
)


class Server:
    """A running command."""

    def __init__(self, process, port, log):
        self.process, self.url, self.log = process, f"http://127.0.0.1:{port}", log

    def processes(self, name):
        """Return the living processes of Ray with a name."""
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if one.cmdline()[:1] and name in one.cmdline()[0]:
                    found.append(one)
            except psutil.Error:
                continue
        return found

    def post(self, index=0):
        """Return the rows of an answer, or its status, or the error of the connection."""
        try:
            answer = httpx.post(
                f"{self.url}/predict", params={"name": "x.png"}, content=png(index), timeout=60
            )
        except httpx.HTTPError as error:
            return error
        return answer.json() if answer.status_code == 200 else answer.status_code

    def until_ready(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.url}/v2/health/ready", timeout=60).status_code == 200:
                    return
            except httpx.HTTPError:
                assert self.process.poll() is None
            threading.Event().wait(0.1)
        raise AssertionError("it is not ready again")


@pytest.fixture(scope="module")
def server(runs, exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    words = [
        "serve",
        str(runs["detect"]),
        f"numbers={exported / 'exports' / 'model.onnx'}",
        "--replicas",
        "2",
        "--port",
        str(port),
        "--batch",
        "4",
        "--queue",
        "16",
    ]
    words += ["--log", str(folder / "log.jsonl"), "--max-bytes", "1000000", "--json"]
    said = (folder / "said.txt").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "ziggurat", *words], stdout=subprocess.PIPE, stderr=said, text=True
    )
    found = Server(process, port, folder / "log.jsonl")
    try:
        found.until_ready()
        yield found
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        process.stdout.close()
        said.close()
        for one in children:
            if one.is_running():
                one.kill()


@pytest.fixture(scope="module")
def alone(runs):
    """What is answered to each image by a replica in this process."""
    replica = Replica(served(runs["detect"]), ServeConfig())
    found = [replica.answer([Ask("", png(index), "x.png")])[0] for index in range(4)]
    replica.close()
    return [json.loads(json.dumps(one.rows)) for one in found]


def test_answers_have_the_bits_of_a_replica_alone_and_together(server, alone):
    assert [server.post(index) for index in range(4)] == alone
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(server.post, [number % 4 for number in range(24)]))
    assert found == [alone[number % 4] for number in range(24)]


def test_answers_of_an_export_are_those_of_predict(server, exported, tmp_path):
    """To the byte, rows and pictures, alone and together."""
    asked = {"name": "x.png", "model": "numbers"}

    def post(place, output):
        answer = httpx.post(
            f"{server.url}/predict", params=asked | {"output": output}, content=png(place), timeout=60
        )
        assert answer.status_code == 200
        return answer

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda number: post(number % 4, "json").json(), range(12)))
    for place in range(4):
        file, out = tmp_path / "x.png", tmp_path / f"out-{place}"
        file.write_bytes(png(place))
        model = str(exported / "exports" / "model.onnx")
        predict(model, [str(file)], str(out), {"plan": "dp=1"}, engine="onnx")
        text = (out / "predictions.json").read_text().replace(f"{tmp_path.as_posix()}/", "")
        rows = post(place, "json").json()
        assert rows
        assert json.dumps(rows) == text
        (picture,) = out.glob("x.*")
        assert post(place, "picture").content == picture.read_bytes()
        assert all(one == rows for one in together[place::4])


def test_requests_are_grouped_logged_and_bounded(server):
    text = httpx.get(f"{server.url}/metrics", timeout=60).text
    assert float(re.search(r'ziggurat_group_images_count\{model="detect"\} (\S+)', text)[1]) >= 28
    assert httpx.post(f"{server.url}/predict", content=bytes(1_000_001), timeout=60).status_code == 413
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert sum(line["path"] == "/predict" and line["status"] == 200 for line in lines) >= 28
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(server.post, [3] * 40))
    assert 429 in found
    assert all(one == 429 or isinstance(one, list) for one in found)


@pytest.mark.parametrize("name", [REPLICA, DOOR, pytest.param(PROXY, marks=pytest.mark.slow)])
def test_what_is_killed_is_started_again_and_nobody_hangs(server, alone, name):
    """Of a replica no request is lost, as each is sent to another; of the door and the proxy those are that they had."""
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            answers.append(server.post(0))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for one in threads:
        one.start()
    while len(answers) < 6:
        threading.Event().wait(0.01)
    (victim, *_) = server.processes(name)
    victim.kill()
    victim.wait(60)
    server.until_ready()
    after = len(answers)
    while len(answers) < after + 6:
        threading.Event().wait(0.01)
    stop.set()
    for one in threads:
        one.join(120)
        assert not one.is_alive()
    good = [one for one in answers if one == alone[0]]
    bad = [one for one in answers if one != alone[0]]
    assert good
    fresh = (404,) if name == PROXY else ()  # a new proxy does not know its routes at once
    odd = [
        one for one in bad if not isinstance(one, httpx.HTTPError) and one not in (500, 502, 503, 504, *fresh)
    ]
    assert not odd
    if name == REPLICA:
        assert not bad
    assert server.post(1) == alone[1]


@pytest.mark.sampled(0)
def test_sigterm_ends_it_and_all_that_it_has_started(server):
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) > 4
    server.process.send_signal(signal.SIGTERM)
    output, _ = server.process.communicate(timeout=PATIENCE)
    assert server.process.returncode == 0
    assert json.loads(output.strip().splitlines()[-1])["models"] == ["detect", "numbers"]
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
