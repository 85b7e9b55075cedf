"""What the pages show works: every code block is run, every link and heading is there.

Commands of ``ziggurat`` are run in this process, in a folder with the files that the pages speak of
(`support.page_names`), with one thread on a processor; Python is run in a child. Other programs (``make``, ``torchrun``,
``pip`` ...) are not run: their targets, files and options are looked up. `support.pages` says how a page lets something
stand in, or gives the reason why a block is parsed only.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

import ziggurat
from support.page_names import names, write_files
from support.pages import ROOT, Block, anchors, blocks, links, pages, prose
from support.ranks import run_ranks
from ziggurat.cli.main import main
from ziggurat.cli.options import settings_from
from ziggurat.cli.running import COMMANDS, build_parser
from ziggurat.config import RunConfig, override
from ziggurat.config.fields import settings_of
from ziggurat.strategies.plan import parse_plan
from ziggurat.training.plan_requests import REQUEST

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
LANGUAGES = {"bash", "python", "yaml", "toml", "text"}
HERE = ["--threads", "1", "--set", "device=cpu"]
PROGRAMS = r"(ziggurat|torchrun|make|python|pip|git|\.venv/bin/\w+) [\w./-]+"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    write_files(folder)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for link in links(page):
        assert link.file.exists(), f"{page}: no {link.file}"
        assert not link.anchor or link.anchor in anchors(link.file), (
            f"{page}: no #{link.anchor} in {link.file}"
        )


def test_every_page_is_found_from_the_readme():
    found, new = set(), {ROOT / "README.md"}
    while new:
        found |= new
        new = {link.file for page in new for link in links(page) if link.file.suffix == ".md"} - found
    assert set(pages()) - found == set()


def test_the_readme_names_what_is_public():
    table = (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("| names | what |")[2].partition("\n\n")[0]
    )
    assert set(re.findall(r"`([A-Za-z_]+)`", table)) == set(ziggurat.__all__)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: a block is one of {sorted(LANGUAGES)}"
        if block.language == "text":  # drawings, printed lines, folders
            assert not re.search(rf"^{PROGRAMS}", block.text, re.MULTILINE), f"{block}: commands are bash"


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_are_commands(page):
    for command, words in re.findall(r"`ziggurat ([a-z]+)([^`]*)`", prose(page)):
        parser = argparse.ArgumentParser()
        COMMANDS[command].add_arguments(parser)
        known = set(re.findall(r"--[a-z-]+", f"--json --help {parser.format_usage()}"))
        assert set(re.findall(r"--[a-z-]+", words)) <= known, f"ziggurat {command} {words}: not all are known"


@pytest.mark.parametrize("page", [page for page in PAGES if page.id != "CHANGELOG.md"])
def test_settings_in_the_text_are_settings(page):
    known = {key for key, _, _ in settings_of(RunConfig())}
    rooms = "|".join(sorted({key.partition(".")[0] for key in known if "." in key}))
    named = set(re.findall(rf"`((?:{rooms})\.[a-z_.]+[a-z_])(?:=[^`]*)?`", prose(page)))
    assert {
        name
        for name in named
        if not re.search(r"\.(py|md|yaml|json|jsonl|csv|png|txt|gpkg|tif|onnx|xml|bin|pt2)$", name)
    } <= known


@pytest.mark.sampled(24)
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page.values[0])])
def test_every_block_does_what_it_shows(page, files, tmp_path, monkeypatch, capfd):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        match block.language:
            case "bash":
                for words in block.commands():
                    follow(words, block)
            case "python":
                follow_python(block)
            case "yaml":
                assert yaml.safe_load(block.replaced), block
            case "toml":
                assert tomllib.loads(block.replaced), block
    capfd.readouterr()


def follow(words: list[str], block: Block) -> None:
    """Run a command, or look up what it names."""
    program, *rest = words
    if program == "ziggurat":
        parse(rest)
        if block.note("only") is None:
            here = HERE if rest[0] in ("train", "evaluate", "predict") else []
            assert main([*rest, *here]) == 0, f"{block}: {' '.join(words)}"
    elif program == "torchrun":
        options = get_args_parser().parse_args(rest)
        if options.module:
            assert options.training_script == "ziggurat"
            parse(options.training_script_args)
        else:
            assert (ROOT / options.training_script).is_file(), f"{block}: {words}"
    elif program in ("python", ".venv/bin/python"):
        source = (ROOT / rest[0]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in source for word in rest if word.startswith("--")), f"{block}: {words}"
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert rest[0] in targets, f"{block}: {words}"
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for extra in re.findall(r"ziggurat\[(.*?)\]", " ".join(rest)):
            assert set(extra.split(",")) <= set(extras["optional-dependencies"]), f"{block}: {words}"
    elif program == "echo":  # into a run's folder
        plan, into, file = rest
        parse_plan(plan)
        assert (into, Path(file).name) == (">", REQUEST), f"{block}: {words}"
    else:
        assert program in ("git", "cd", "source"), f"{block}: nothing is known of {program}"


def parse(words: list[str]) -> None:
    """Let the command's own parser take the words, and the config its settings."""
    options = build_parser().parse_args(words)
    if hasattr(options, "set"):
        override(RunConfig(), settings_from(options))


def follow_python(block: Block) -> None:
    """Run Python in a child, or in several that are workers; a block may have ``...`` for what is the user's."""
    code = compile(block.replaced, str(block), "exec", dont_inherit=True)
    if block.note("only") is None:
        world = int(block.note("workers") or 1)
        run_ranks(execute, world, (code.co_filename, block.replaced, block.note("given")), seconds=60)
    else:
        assert ast.parse(block.text).body, block


def execute(workers, where: str, text: str, given: str | None) -> None:
    ziggurat.join_world = lambda: contextlib.nullcontext(workers)  # those that torchrun would have made
    with names(given, workers) as found:
        exec(compile(text, where, "exec", dont_inherit=True), {"ziggurat": ziggurat, **found})
