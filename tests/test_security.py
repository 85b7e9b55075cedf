"""Nothing from outside is unpickled or leaves its place: an audit of the source, and bombs that are bounded."""

import ast
import os
import struct
import sys
import zlib
from pathlib import Path

import psutil
import pytest
import torch

from ziggurat.data.readers.images import read_image
from ziggurat.errors import UserError
from ziggurat.models.weight_files import read_tensors
from ziggurat.parallel.runtime.launch import WorkerSettings, launch

SOURCE = Path(__file__).parents[1] / "src" / "ziggurat"

# Bytes that the program's own workers have sent each other; nothing of a file.
OWN_BYTES = {
    ("verification/handing.py", "pickle.Unpickler"),
    ("parallel/pipeline/parcels.py", "pickle.loads"),
    ("parallel/collectives/workers.py", "pickle.loads"),
    ("data/loading/process.py", "pickle.loads"),
    ("planning/processes.py", "pickle.loads"),
    ("serving/group.py", "pickle.loads"),
    ("data/loading/passing.py", "pickle.Unpickler"),
}
PICKLES = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "dill.load", "joblib.load",
    "pandas.read_pickle", "torch.package.PackageImporter", "torch.jit.load", "dcp.load",
}  # fmt: skip


def name_of(node):
    if isinstance(node, ast.Name):
        return node.id
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def audit(text):
    """Return the calls of a source that could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            found += [name_of(base) for base in node.bases if name_of(base) in PICKLES]
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        given = {word.arg: word.value for word in node.keywords}
        safe = given.get("weights_only")
        if name == "torch.load" and not (isinstance(safe, ast.Constant) and safe.value is True):
            found.append(name)
        if name.endswith(("np.load", "numpy.load")) and "allow_pickle" in given:
            found.append(name)
        if name in PICKLES:
            found.append(name)
    return found


def test_nothing_from_outside_is_unpickled():
    found = {
        (path.relative_to(SOURCE).as_posix(), name)
        for path in SOURCE.rglob("*.py")
        for name in audit(path.read_text(encoding="utf-8"))
    }
    assert found == OWN_BYTES


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, weights_only=x)", "pickle.loads(b)",
        "yaml.load(t)", "np.load(f, allow_pickle=True)", "eval(t)", "class A(pickle.Unpickler): pass",
    ],
)  # fmt: skip
def test_the_audit_finds_what_it_looks_for(line):
    assert audit(line)
    assert not audit("torch.load(f, weights_only=True); yaml.safe_load(t); np.load(f); json.loads(t)")


class Harmful:
    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_a_file_of_weights_runs_nothing(tmp_path):
    harmful = Harmful()
    Harmful.place = tmp_path / "harm"
    torch.save({"weight": harmful}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"weights\.pt"):
        read_tensors(tmp_path / "weights.pt")
    assert not (tmp_path / "harm").exists()


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def test_a_bomb_is_refused_by_its_head(tmp_path):
    """A PNG of a few bytes that says it is 60000 x 60000: its 10.8 GB are never made."""
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    before = psutil.Process().memory_info().rss
    with pytest.raises(UserError, match=r"has 3600000000 pixels .*more than data.max_pixels"):
        read_image(path, 1 << 30)
    assert psutil.Process().memory_info().rss - before < 1 << 28


def listening(workers):
    """Return the addresses at which this worker listens."""
    workers.barrier()
    kinds = psutil.Process().net_connections("inet")
    found = sorted({one.laddr.ip for one in kinds if one.status == psutil.CONN_LISTEN})
    return workers.gather(found)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="gloo is bound to an interface on Linux only"
)
def test_local_workers_listen_on_loopback_only():
    found = launch(listening, (), 2, WorkerSettings(threads=1, device="cpu"))
    assert found is not None
    assert all(address.startswith("127.") or address == "::1" for addresses in found for address in addresses)
    assert any(found), "they do listen"
