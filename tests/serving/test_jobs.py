"""Jobs: states, progress, cancelling, going on after the server was killed, and paths that lead elsewhere."""

import asyncio
import contextlib
import json
import sys
import threading

import httpx
import psutil
import pytest

from support.served import HeldEngine, listening, png
from ziggurat.commands.predict import predict
from ziggurat.config.serve_config import ServeConfig
from ziggurat.serving.jobs import Jobs

# Stands for the command: it says how far it is, and ends when a file is there.
STAND_IN = """
import json, os, pathlib, sys, time
out = pathlib.Path(next(word for before, word in zip(sys.argv, sys.argv[1:]) if before == "--out"))
out.mkdir(exist_ok=True)
print("noise", file=sys.stderr)
print("prediction: 1/9 tiles  3 s left", file=sys.stderr, flush=True)
images = [word for word in sys.argv if word.endswith(".png")]
with open(out / "begun", "a") as file:
    file.write("x")
while not (pathlib.Path(images[0]).parent / "go").exists():
    time.sleep(0.01)
if pathlib.Path(images[0]).name == "wrong.png":
    print("ziggurat: the image is wrong: mend it", file=sys.stderr)
    sys.exit(2)
(out / "predictions.json").write_text(json.dumps(sys.argv[2:]))
print(json.dumps({"images": len(images), "predictions": str(out / "predictions.json")}))
"""


@pytest.fixture
def place(tmp_path):
    """Folders with images, an allowed one and another, and the program that stands in."""
    for name in ("allowed/deeper", "other"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("allowed/a.png", "allowed/wrong.png", "allowed/deeper/b.png", "other/secret.png"):
        (tmp_path / name).write_bytes(png(0))
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    return tmp_path


def jobs_of(place, **settings):
    program = (sys.executable, str(place / "stand_in.py"))
    return Jobs(
        place / "jobs", [place / "allowed"], {"held": ["predict", "RUN"]}, ServeConfig(**settings), program
    )


@contextlib.contextmanager
def running(place, **settings):
    """A server whose jobs are run."""
    jobs = jobs_of(place, **settings)
    with listening(HeldEngine(), jobs) as live:
        task = asyncio.run_coroutine_threadsafe(jobs.run(), live.loop)
        live.jobs = jobs
        try:
            with httpx.Client(base_url=live.url, timeout=60) as client:
                yield client, live
        finally:
            task.cancel()
            asyncio.run_coroutine_threadsafe(ended(jobs), live.loop).result(30)


async def ended(jobs):
    while jobs._process is not None and jobs._process.returncode is None:
        await asyncio.sleep(0.01)


def when(client, job, state, **fields):
    """Return a job once it is in a state, and its fields hold some text."""
    for _ in range(3000):
        found = client.get(f"/jobs/{job}").json()
        if found["state"] == state and all(text in found[name] for name, text in fields.items()):
            return found
        assert found["state"] in ("queued", "running"), found
        threading.Event().wait(0.01)
    raise AssertionError(found)


def test_a_job_runs_tells_how_far_it_is_and_gives_its_files(place):
    with running(place) as (client, _):
        answer = client.post(
            "/jobs",
            json={
                "images": ["a.png", str(place / "allowed/deeper/b.png")],
                "format": "coco,csv",
                "score": 0.5,
            },
        )
        assert answer.status_code == 202
        job = answer.json()["id"]
        assert answer.headers["location"] == f"/jobs/{job}"
        assert when(client, job, "running", progress="1/9 tiles")["images"] == 2
        (place / "allowed" / "go").touch()
        done = when(client, job, "done")
        assert done["result"] == {"images": 2}  # places on the server's disk are nobody's business
        words = client.get(f"/jobs/{job}/files/predictions.json").json()
        assert words[:4] == [
            "predict",
            "RUN",
            str(place / "allowed/a.png"),
            str(place / "allowed/deeper/b.png"),
        ]
        assert {"--format=coco,csv", "--score=0.5", "--resume", "--json"} <= set(words)
        assert f"/jobs/{job}/files/predictions.json" in done["files"]
        for path in ("../job.json", "nothing", "..%2fjob.json", "/etc/passwd"):
            assert client.get(f"/jobs/{job}/files/{path}").status_code == 404
        assert client.get("/jobs").json() == [done]
        assert client.delete(f"/jobs/{job}").status_code == 202
        assert client.get(f"/jobs/{job}").status_code == 404
        assert not (place / "jobs" / job).exists()


def test_a_job_that_fails_says_why(place):
    (place / "allowed" / "go").touch()
    with running(place) as (client, _):
        job = client.post("/jobs", json={"images": ["wrong.png"]}).json()["id"]
        assert when(client, job, "failed")["error"] == "the image is wrong: mend it"


def test_jobs_are_cancelled_waiting_and_running(place):
    with running(place, max_jobs=2) as (client, live):
        first, second = (client.post("/jobs", json={"images": ["a.png"]}).json()["id"] for _ in range(2))
        when(client, first, "running", progress="1/9")
        full = client.post("/jobs", json={"images": ["a.png"]})
        assert full.status_code == 429
        assert full.headers["retry-after"] == "30"
        assert client.delete(f"/jobs/{second}").json()["state"] == "cancelled"
        process = psutil.Process(live.jobs._process.pid)
        assert client.delete(f"/jobs/{first}").json()["state"] == "cancelled"
        process.wait(30)
        (place / "allowed" / "go").touch()
        third = client.post("/jobs", json={"images": ["a.png"]}).json()["id"]
        when(client, third, "done")
        assert client.get(f"/jobs/{first}").json()["state"] == "cancelled"
        assert not (place / "jobs" / first / "result").exists()
        assert not (place / "jobs" / second / "result").exists()


def test_jobs_go_on_with_the_next_server(place):
    with running(place) as (client, _):
        first, second = (client.post("/jobs", json={"images": ["a.png"]}).json()["id"] for _ in range(2))
        when(client, first, "running", progress="1/9")
    assert (
        json.loads((place / "jobs" / first / "job.json").read_text())["state"] == "running"
    )  # as after a kill
    (place / "allowed" / "go").touch()
    with running(place) as (client, _):
        assert when(client, first, "done")["state"] == "done"
        when(client, second, "done")
        assert (place / "jobs" / first / "result" / "begun").read_text() == "xx"  # in the same folder
        assert (place / "jobs" / second / "result" / "begun").read_text() == "x"


def test_a_job_that_takes_the_server_with_it_is_not_begun_for_ever(place):
    jobs = jobs_of(place)
    job = jobs.add(json.dumps({"images": ["a.png"]}).encode(), lambda name: "held")
    file = place / "jobs" / job.id / "job.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "running", "attempts": 3}))
    with running(place) as (client, _):
        assert "3 times" in when(client, job.id, "failed")["error"]


def test_old_results_are_forgotten(place):
    (place / "allowed" / "go").touch()
    with running(place, keep_jobs=1) as (client, _):
        ids = []
        for _ in range(3):
            ids.append(client.post("/jobs", json={"images": ["a.png"]}).json()["id"])
            when(client, ids[-1], "done")
        client.post("/jobs", json={"images": ["a.png"]})
        assert [client.get(f"/jobs/{one}").status_code for one in ids] == [404, 404, 200]
        assert not (place / "jobs" / ids[0]).exists()


@pytest.mark.parametrize(
    "path",
    [
        "../other/secret.png", "/etc/passwd", "deeper/../../other/secret.png", "link.png", "folder_link/secret.png", "none.png", "",
        ".", "deeper", "*.png", "a.png\0", "list.txt", "mosaic.vrt", "named.png", "-.png", "x" * 5000, "~/a.png", "hole/a.png", "a.png/..", "loop.png",
    ],
)  # fmt: skip
def test_paths_lead_to_allowed_images_only(place, path):
    allowed = place / "allowed"
    (allowed / "link.png").symlink_to(place / "other" / "secret.png")
    (allowed / "folder_link").symlink_to(place / "other")
    (allowed / "loop.png").symlink_to(allowed / "loop.png")
    (allowed / "list.txt").write_text(f"{place}/other/secret.png\n")
    (allowed / "mosaic.vrt").write_text("<VRTDataset/>")
    (allowed / "named.png").write_text(f"{place}/other/secret.png\n")
    with listening(HeldEngine(), jobs_of(place)) as live:
        answer = httpx.post(f"{live.url}/jobs", json={"images": ["a.png", path]})
    assert answer.status_code == 403
    assert "secret" not in answer.json()["error"] or "secret" in path
    assert not list((place / "jobs").iterdir())


@pytest.mark.parametrize(
    "tree",
    [
        None, [], {}, {"images": "a.png"}, {"images": []}, {"images": [1]}, {"images": ["a.png"], "plan": "dp=9"}, {"images": ["a.png"], "out": "/tmp"},
        {"images": ["a.png"], "format": "--overwrite"}, {"images": ["a.png"], "format": 5}, {"images": ["a.png"], "classes": "-x"},
        {"images": ["a.png"], "score": 7}, {"images": ["a.png"], "score": True}, {"images": ["a.png"], "model": 5}, {"images": ["a.png"], "pictures": "a\nb"},
    ],
)  # fmt: skip
def test_what_is_no_job_is_refused(place, tree):
    with listening(HeldEngine(), jobs_of(place)) as live:
        answer = httpx.post(
            f"{live.url}/jobs", content=json.dumps(tree), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400
        assert (
            httpx.post(
                f"{live.url}/jobs", content=b"[" * 100_000, headers={"content-type": "application/json"}
            ).status_code
            == 400
        )
        assert (
            httpx.post(f"{live.url}/jobs", content=json.dumps({"images": ["a.png"]})).status_code == 415
        )  # a form of another page


def test_a_server_without_allowed_folders_takes_no_jobs():
    with listening(HeldEngine()) as live:
        assert httpx.post(f"{live.url}/jobs", json={}).status_code == 404


def test_a_job_is_what_predict_does(runs, tmp_path):
    """The real command: the same files as `ziggurat predict`, but for the time that it took."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(png(3))
    jobs = Jobs(
        tmp_path / "jobs",
        [images],
        {"held": ["predict", str(runs["detect"]), "--set", "plan=dp=1"]},
        ServeConfig(),
    )
    with listening(HeldEngine(), jobs) as live:
        task = asyncio.run_coroutine_threadsafe(jobs.run(), live.loop)
        with httpx.Client(base_url=live.url, timeout=60) as client:
            job = client.post("/jobs", json={"images": ["a.png"], "format": "coco,csv"}).json()["id"]
            when(client, job, "done")
            found = {
                name.rpartition("/")[2]: client.get(name).content
                for name in client.get(f"/jobs/{job}").json()["files"]
            }
        task.cancel()
    predict(str(runs["detect"]), [str(images / "a.png")], str(tmp_path / "out"), {"plan": "dp=1"})
    assert found == {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir() if one.is_file()}
    assert set(found) == {"predictions.json", "predictions.csv", "a.png"}
