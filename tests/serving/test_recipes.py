"""The recipes of examples/serve: the client asks a server, the application for Ray's config files is built, the manifests are read."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import yaml

import ziggurat.commands.serve
from support.served import HeldEngine, listening, png
from ziggurat.cli.main import main

RECIPES = Path(__file__).parents[2] / "examples" / "serve"


def test_the_client_prints_what_is_found(live, replicas, tmp_path, monkeypatch, capsys):
    image = tmp_path / "photo.png"
    image.write_bytes(png(0))
    monkeypatch.setattr(sys, "argv", ["client.py", str(image), live.url])
    runpy.run_path(str(RECIPES / "client.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1
    assert lines[0].split()[0] in replicas["detect"].card.classes


def test_the_manifest_names_an_application_that_is_built(runs):
    manifest = yaml.safe_load((RECIPES / "rayservice.yaml").read_text())
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    code = f"import json, {module}; built = {module}.{name}(json.loads(input())); handles = built._bound_deployment.init_args[0]; "
    code += "print(json.dumps({name: one._bound_deployment.num_replicas for name, one in handles.items()}))"
    arguments = application["args"] | {"runs": f"{runs['detect']} areas={runs['segment']}"}
    found = subprocess.run(  # Ray changes the environment of the process that imports it
        [sys.executable, "-c", code],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=True,
        cwd=RECIPES,
    )
    assert json.loads(found.stdout) == {"detect": 2, "areas": 2}


def test_what_cannot_be_served_is_said_in_one_message(runs, tmp_path, capsys):
    words = [
        "serve",
        str(runs["detect"]),
        str(runs["detect"]),
        str(tmp_path / "none"),
        "--allow",
        str(tmp_path / "nowhere"),
    ]
    assert main([*words, "--queue", "0", "--formats", "png,svg", "--host", "no.such.host.invalid"]) == 2
    said = capsys.readouterr().err
    for part in (
        "detect is taken",
        "none",
        "--allow",
        "--queue must be from 1",
        "svg is none",
        "cannot be listened at",
    ):
        assert part in said, part
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_said(runs, capsys):
    with listening(HeldEngine()) as live:
        assert main(["serve", str(runs["detect"]), "--port", str(live.port)]) == 2
    assert "cannot be listened at" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(runs, monkeypatch, capsys):
    monkeypatch.setattr(ziggurat.commands.serve, "PACKAGES", ("starlette", "no_such_package"))
    assert main(["serve", str(runs["detect"])]) == 2
    assert "no_such_package: pip install 'ziggurat[serve]'" in capsys.readouterr().err
