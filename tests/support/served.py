"""A server in this process: the door over HTTP on a port of its own, and replicas of runs with random weights, without Ray."""

import asyncio
import contextlib
import io
import json
import socket
import threading

import numpy as np
import torch
import uvicorn
from PIL import Image
from safetensors.torch import save_file

from support.small_runs import config_of
from ziggurat.commands.runs import members_of
from ziggurat.config.serve_config import ServeConfig
from ziggurat.models.build import build_model
from ziggurat.runs.folder import WEIGHTS, declare_run, start_run_folder
from ziggurat.serving.app import Door
from ziggurat.serving.exchange import Answer, Card, Refused
from ziggurat.serving.opening import Served
from ziggurat.tasks.opening import open_dataset

SIZES = [(64, 64), (64, 64), (40, 75), (150, 90)]  # of the last one several tiles are made


def make_run(folder, task):
    """Write a run of a task with random weights, and return its folder."""
    config = config_of(task, **{"decode.score_threshold": 0.0})
    dataset = open_dataset("digits", "val", task, config.data, config.digits)
    start_run_folder(folder, config, dataset)
    declare_run(folder, config)
    torch.manual_seed(3)
    model = build_model(config.model, len(dataset.classes))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    return folder


def served(folder, plan="dp=1", name=None):
    return Served(name or folder.name, members_of(str(folder), {"plan": plan}, "predict"))


def png(index=0, size=None):
    """The bytes of an image of noise."""
    shape = (*(size or SIZES[index]), 3)
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class LocalEngine:
    """Replicas in this process, each asked for one image at a time."""

    def __init__(self, replicas):
        self.replicas = {one.card.name: one for one in replicas}

    def names(self):
        return tuple(self.replicas)

    async def card(self, name):
        return self.replicas[name].card

    async def answer(self, name, ask):
        (found,) = await asyncio.to_thread(self.replicas[name].answer, [ask])
        if isinstance(found, Refused):
            raise found
        return found


class HeldEngine:
    """A model that answers when it is let go, and counts what it is asked."""

    def __init__(self):
        self.go, self.asked = asyncio.Event(), []
        self.fault = None

    def names(self):
        return ("held",)

    async def card(self, name):
        return Card(name, "none", "none", ("a",), "images", 3, (), "", "dp=1")

    async def answer(self, name, ask):
        self.asked.append(ask)
        await self.go.wait()
        if self.fault is not None:
            raise self.fault
        return Answer([{"file_name": ask.name}])


class Live:
    """A door that listens.

    Attributes:
        door: The door.
        port: Where.
        log: The lines that it has logged.
    """

    def __init__(self, engine, jobs=None, **settings):
        self._stream = io.StringIO()
        self.door = Door(engine, ServeConfig(**settings), jobs, self._stream)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def log(self):
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def logged(self, request):
        """Return the line of a request, which is written once its answer is sent."""
        for _ in range(3000):
            for line in self.log:
                if line["request"] == request:
                    return line
            threading.Event().wait(0.01)
        raise AssertionError(f"{request} is not in the log")


@contextlib.contextmanager
def listening(engine, jobs=None, **settings):
    """Let a door listen on a thread of its own while a block runs."""
    live = Live(engine, jobs, **settings)
    options = uvicorn.Config(live.door.app, log_level="error", lifespan="off", ws="none", loop="asyncio")
    server, begun = uvicorn.Server(options), threading.Event()
    begins = server.startup

    async def startup(sockets=None):
        live.loop = asyncio.get_running_loop()
        await begins(sockets)
        begun.set()

    server.startup = startup
    thread = threading.Thread(target=server.run, args=([live.socket],), name="door")
    thread.start()
    try:
        assert begun.wait(30), "the server did not begin"
        yield live
    finally:
        server.should_exit = True
        thread.join(30)
        live.socket.close()
    assert not thread.is_alive()
