"""The door: an ASGI application over an `Engine`.

    request ─> `Watch`: id, log, counters ─> route ─> body within bounds ─> queue within bounds ─> engine ─> answer

Whatever is wrong with a request becomes one message: ``{"error": ..., "request": ...}``, with the status of `Refused`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ziggurat.config.serve_config import ServeConfig
from ziggurat.errors import nearest
from ziggurat.serving.exchange import MASK, PICTURE, ROWS, Answer, Ask, Card, Engine, Refused
from ziggurat.serving.jobs import Jobs
from ziggurat.serving.metrics import Metrics
from ziggurat.serving.protocol import HEADER_LENGTH, metadata, read_inference, write_inference
from ziggurat.serving.receiving import check_format, read_body, read_upload

OUTPUTS = {
    "json": frozenset({ROWS}),
    "picture": frozenset({ROWS, PICTURE}),
    "mask": frozenset({ROWS, MASK}),
    "all": frozenset({ROWS, PICTURE, MASK}),
}
PAGE = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
EXTENSIONS = ["binary_tensor_data"]
HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "cache-control": "no-store",
}


class Door:
    """Answers requests.

    Args:
        engine: Computes.
        config: Limits.
        jobs: Of large images; None where none are taken.
        log: Takes a line of JSON for each request; None takes standard error.
        says_id: Whether answers have the header ``x-request-id``.

    Attributes:
        app: The ASGI application.
        metrics: What is counted.
        is_draining: Whether no further requests are taken.
    """

    def __init__(
        self,
        engine: Engine,
        config: ServeConfig,
        jobs: Jobs | None = None,
        log: TextIO | None = None,
        says_id: bool = True,
    ) -> None:
        self.engine, self.config, self.jobs = engine, config, jobs
        self.metrics, self.is_draining = Metrics(), False
        self._under_way: Counter[str] = Counter()  # by model
        self._uploads = 0
        routes = [
            *(Route(f"/{name}", self._page) for name in PAGE),
            Route("/metrics", self._metrics),
            Route("/predict", self._predict, methods=["POST"]),
            Route("/jobs", self._jobs, methods=["GET", "POST"]),
            Route("/jobs/{job}", self._job, methods=["GET", "DELETE"]),
            Route("/jobs/{job}/files/{path:path}", self._job_file),
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/repository/index", self._index, methods=["POST"]),
        ]
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(prefix, self._model),
                Route(f"{prefix}/ready", self._model_ready),
                Route(f"{prefix}/infer", self._infer, methods=["POST"]),
            ]
        handlers: dict[Any, Any] = {Refused: _refusal, HTTPException: _http_refusal, Exception: _failure}
        inner = Starlette(routes=routes, exception_handlers=handlers)
        self.app: ASGIApp = Watch(inner, self.metrics, log, says_id)

    async def drain(self) -> None:
        """Take no further requests, and wait until those under way have ended, or for the configured time."""
        self.is_draining = True
        end = time.monotonic() + self.config.drain_seconds
        while (self._under_way.total() or self._uploads) and time.monotonic() < end:
            await asyncio.sleep(0.02)

    # Images.

    async def _predict(self, request: Request) -> Response:
        name, output = self._name(request.query_params.get("model", "")), _output(request)
        self._check_queue(name, 1)
        with self._receiving():
            upload = await read_upload(request, self.config)
        self.metrics.received.inc(len(upload.data))
        (answer,) = await self._answer(
            name, [Ask(request.state.id, upload.data, upload.name, OUTPUTS[output])]
        )
        match output:
            case "json":
                return JSONResponse(answer.rows)
            case "picture":
                return Response(answer.picture, media_type=_picture_type(answer.picture))
            case "mask":
                if not answer.mask:
                    raise Refused(
                        400,
                        f"output=mask is of models that label pixels: {name} does not; take output=json or output=picture",
                    )
                return Response(answer.mask, media_type="image/png")
        picture = base64.b64encode(answer.picture).decode()
        kind = _picture_type(answer.picture)
        mask = base64.b64encode(answer.mask).decode()
        return JSONResponse(
            {"predictions": answer.rows, "picture": picture, "picture_type": kind, "mask": mask}
        )

    async def _infer(self, request: Request) -> Response:
        name = self._named(request)
        self._check_queue(name, 1)
        card = await self._card(name)
        with self._receiving():
            body = await read_body(request, self.config)
        self.metrics.received.inc(len(body))
        inference = read_inference(body, request.headers.get(HEADER_LENGTH), card)
        for image in inference.images:
            if not isinstance(image, np.ndarray):
                check_format(image, self.config)
        asks = [
            Ask(request.state.id, image, f"image-{number}", inference.wants)
            for number, image in enumerate(inference.images)
        ]
        body, length = write_inference(card, inference, await self._answer(name, asks))
        if length is None:
            return Response(body, media_type="application/json")
        return Response(body, media_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})

    async def _answer(self, name: str, asks: Sequence[Ask]) -> list[Answer]:
        """Ask the engine for some images, within the bounds of queue and time.

        Raises:
            Refused: If the queue is full, an image is refused, or it takes too long.
        """
        self._check_queue(name, len(asks))
        with self._waiting(name, len(asks)):
            try:
                async with asyncio.timeout(self.config.seconds):
                    found = await asyncio.gather(
                        *(self.engine.answer(name, ask) for ask in asks), return_exceptions=True
                    )
            except TimeoutError:
                raise Refused(
                    504,
                    f"a request has {self.config.seconds:g} s (--seconds), and has taken longer: try again, or ask for a job",
                    1,
                ) from None
        for one in found:
            if isinstance(one, BaseException):
                raise one
        answers = [one for one in found if isinstance(one, Answer)]
        for answer in answers:
            self.metrics.compute.labels(name).observe(answer.seconds)
            self.metrics.group.labels(name).observe(answer.group)
        return answers

    def _check_queue(self, name: str, count: int) -> None:
        if self.is_draining:
            raise Refused(503, "the server is being stopped: ask another one", 5)
        if self._under_way[name] + count > self.config.queue and self._under_way[name]:
            raise Refused(429, f"{self.config.queue} requests to {name} wait already (--queue): try again", 1)

    @contextmanager
    def _waiting(self, name: str, count: int) -> Iterator[None]:
        self._under_way[name] += count
        self.metrics.waiting.labels(name).set(self._under_way[name])
        try:
            yield
        finally:
            self._under_way[name] -= count
            self.metrics.waiting.labels(name).set(self._under_way[name])

    @contextmanager
    def _receiving(self) -> Iterator[None]:
        if self._uploads >= self.config.uploads:
            raise Refused(503, f"{self.config.uploads} bodies are being received (--uploads): try again", 1)
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    # Models.

    def _name(self, name: str) -> str:
        names = self.engine.names()
        if not name:
            return names[0]
        if name not in names:
            raise Refused(404, f"there is no model {_shown(name)}: {nearest(name[:100], names)}")
        return name

    def _named(self, request: Request) -> str:
        if request.path_params.get("version", "1") != "1":
            raise Refused(
                404, f"there is no version {_shown(request.path_params['version'])}: each model has one, 1"
            )
        return self._name(request.path_params["model"])

    async def _card(self, name: str) -> Card:
        try:
            async with asyncio.timeout(self.config.seconds):
                return await self.engine.card(name)
        except TimeoutError:
            raise Refused(503, f"no replica of {name} is ready: try again", 5) from None

    async def _is_ready(self, name: str) -> bool:
        try:
            await self._card(name)
        except Refused:
            return False
        return not self.is_draining

    async def _model(self, request: Request) -> Response:
        return JSONResponse(metadata(await self._card(self._named(request))))

    async def _model_ready(self, request: Request) -> Response:
        name = self._named(request)
        ready = await self._is_ready(name)
        return JSONResponse({"name": name, "ready": ready}, 200 if ready else 503)

    async def _index(self, request: Request) -> Response:
        return JSONResponse(
            [{"name": name, "version": "1", "state": "READY"} for name in self.engine.names()]
        )

    # The server.

    async def _server(self, request: Request) -> Response:
        return JSONResponse({"name": "ziggurat", "version": version("ziggurat"), "extensions": EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, request: Request) -> Response:
        ready = all(await asyncio.gather(*(self._is_ready(name) for name in self.engine.names())))
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type=self.metrics.content_type)

    async def _page(self, request: Request) -> Response:
        name = request.url.path.strip("/")
        file = Path(__file__).parent / "page" / (name or "index.html")
        return Response(file.read_bytes(), media_type=PAGE[name])

    # Jobs.

    def _all_jobs(self) -> Jobs:
        if self.jobs is None:
            raise Refused(
                404, "this server takes no jobs: start it with --allow DIR, the folder of their images"
            )
        return self.jobs

    async def _jobs(self, request: Request) -> Response:
        jobs = self._all_jobs()
        if request.method == "GET":
            return JSONResponse([job.shown for job in jobs.all()])
        if self.is_draining:
            raise Refused(503, "the server is being stopped: ask another one", 5)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refused(415, "a job is asked for by a JSON object: send content-type: application/json")
        with self._receiving():
            body = await read_body(request, self.config)
        job = jobs.add(body, self._name)
        return JSONResponse(job.shown, 202, headers={"location": f"/jobs/{job.id}"})

    async def _job(self, request: Request) -> Response:
        jobs = self._all_jobs()
        if request.method == "DELETE":
            return JSONResponse(jobs.cancel(request.path_params["job"]).shown, 202)
        return JSONResponse(jobs.get(request.path_params["job"]).shown)

    async def _job_file(self, request: Request) -> Response:
        file = self._all_jobs().file(request.path_params["job"], request.path_params["path"])
        return _FileResponse(file, media_type="application/octet-stream")


class Watch:
    """Gives each request an id, logs and counts it, and answers what nobody has foreseen with 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: TextIO | None, says_id: bool) -> None:
        self._app, self._metrics, self._log, self._says_id = app, metrics, log, says_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request = given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else uuid.uuid4().hex
        scope.setdefault("state", {})["id"] = request
        fault = ""

        async def watched(message: Message) -> None:
            nonlocal status, fault
            if message["type"] == "http.response.start":
                status = message["status"]
                more = HEADERS | ({"x-request-id": request} if self._says_id else {})
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.encode(), value.encode()) for name, value in more.items()),
                ]
            elif status >= 400 and not fault:
                fault = message.get("body", b"")[:500].decode(errors="replace")
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:  # noqa: BLE001 - one request must not end the others, and its sender gets an answer
            fault = traceback.format_exc()
        seconds = time.perf_counter() - start
        route = _route_of(scope)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "request": request, "method": scope["method"],
            "path": _shown(scope["path"]), "status": status, "seconds": round(seconds, 4),
        }  # fmt: skip
        print(
            json.dumps(line | ({"fault": fault} if fault else {})), file=self._log or sys.stderr, flush=True
        )


def _route_of(scope: Scope) -> str:
    """Return a request's route as it was declared: paths that anybody can make up would be counters without end."""
    route = scope.get("route")
    return getattr(route, "path", "") or "other"


class _FileResponse(Response):
    """A file, some kilobytes at a time."""

    def __init__(self, file: Path, media_type: str) -> None:
        self._file = file
        super().__init__(media_type=media_type)
        self.headers["content-length"] = str(file.stat().st_size)
        self.headers["content-disposition"] = "attachment"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with self._file.open("rb") as stream:
            while chunk := await asyncio.to_thread(stream.read, 1 << 18):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _output(request: Request) -> str:
    output = request.query_params.get("output", "json")
    if output not in OUTPUTS:
        raise Refused(400, f"output must be one of {', '.join(OUTPUTS)}: got {_shown(output)}")
    return output


def _picture_type(picture: bytes) -> str:
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"


def _shown(text: str) -> str:
    """Return what others have sent, short and on one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:100])


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {"retry-after": str(error.retry_after)} if error.retry_after else {}
    if error.status in (408, 413):
        headers["connection"] = "close"  # what is left of the body is not read
    return JSONResponse({"error": str(error), "request": request.state.id}, error.status, headers)


async def _failure(request: Request, error: Exception) -> Response:
    """Answer what nobody has foreseen; the error goes on to `Watch`, which writes it into the log."""
    message = "the server has failed: its log has more under this id"
    return JSONResponse({"error": message, "request": request.state.id}, 500)


async def _http_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"there is nothing at {_shown(request.url.path)}: docs/serving.md lists what there is",
        405: f"{request.method} is no method of {_shown(request.url.path)}",
    }
    message = messages.get(error.status_code, str(error.detail))
    return JSONResponse(
        {"error": message, "request": request.state.id}, error.status_code, dict(error.headers or {})
    )
