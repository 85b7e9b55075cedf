"""Reading the command line: no abbreviations, several settings after one ``--set``, and one sentence where it is wrong."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from ziggurat.cli.options import RUN_FLAGS
from ziggurat.config.names import ELSEWHERE, full_name
from ziggurat.config.reads import reads_setting
from ziggurat.errors import UserError, nearest

# What other tools call flags that are no settings, without dashes.
FLAGS_ELSEWHERE = {
    "output": "--out", "output_dir": "--out", "out_dir": "--out", "save_dir": "--out", "project": "--out", "work_dir": "--out",
    "outdir": "--out", "config_file": "--config", "cfg": "--config", "conf": "--score", "confidence": "--score",
    "score_threshold": "--score",
}  # fmt: skip
_SETTING = re.compile(r"[A-Za-z_]+(\.[A-Za-z_]+)*=")
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)e[+-]?\d+|-(inf|nan)", re.IGNORECASE)
_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """A parser that takes flags by their whole names, and says what is wrong in one sentence."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**(named | {"allow_abbrev": False}))
        self.commands: dict[str, argparse.ArgumentParser] = {}
        self.many = ""  # the argument that takes any number of words

    def add_argument(self, *names: Any, **named: Any) -> argparse.Action:
        """Add an argument; words of one that takes any number of them may stand behind flags, too."""
        action = super().add_argument(*names, **named)
        if action.nargs == "+" and not action.option_strings:
            self.many = action.dest
        return action

    def add_subparsers(self, **named: Any) -> Any:
        """Return what commands are added to."""
        group = super().add_subparsers(**named)
        self.commands = group.choices  # it grows as they are added
        return group

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments; a word that no argument takes is answered with the nearest flag."""
        options, others = self.parse_known_args(args, namespace)
        command = self.commands.get(options.command, self) if others else self
        many = command.many if isinstance(command, Parser) else ""
        if many and not any(word.startswith("-") or _SETTING.match(word) for word in others):
            getattr(options, many).extend(others)  # those behind a flag
            others = []
        if others:
            flags = list(dict.fromkeys(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", command.format_usage())))
            unknown = [word for word in others if word.startswith("-")]
            if unknown:
                command.error(_unknown_flag(unknown[0].partition("=")[0], flags, options.command))
            more = f"; settings follow --set: --set {others[0]}" if _SETTING.match(others[0]) else ""
            command.error(f"too many arguments: nothing takes '{others[0]}'{more}")
        return options

    def error(self, message: str) -> NoReturn:
        """End the program with status 2 and one sentence."""
        match = _CHOICE.fullmatch(message)
        if match is not None:
            known = re.findall(r"'([^']*)'", match[3]) or match[3].split(", ")
            message = f"unknown {match[1].lower()} '{match[2]}': {nearest(match[2].lower(), known)}"
        message = message.replace("the following arguments are required:", "missing:")
        self.exit(2, f"ziggurat: {message}; `{self.prog} --help` lists what there is\n")


def _unknown_flag(word: str, flags: Sequence[str], command: str) -> str:
    """Return what is said of a flag that a command does not have: where it would be, or what it is called here."""
    if word in flags:
        return f"flags follow the command: ziggurat {command} ... {word}"
    name = word.lstrip("-").replace("-", "_").lower()
    key, flag = ELSEWHERE.get(name) or _setting_of(word, name, command), FLAGS_ELSEWHERE.get(name)
    flag = flag or next((one for one, setting in RUN_FLAGS.items() if setting == key), None)
    if flag in flags:
        return f"unknown flag '{word}': here it is '{flag}'"
    if key is not None:
        return f"unknown flag '{word}': here it is '--set {key}=...'"
    lower = next((one for one in flags if one.lower() == word.lower()), word)
    return f"unknown flag '{word}': {nearest(lower, flags, cutoff=0.7)}"


def _setting_of(word: str, name: str, command: str) -> str | None:
    """Return the setting that a flag of another command stands for, or that is called as one that there is not; None if the command reads none."""
    try:
        setting = RUN_FLAGS.get(word) or full_name(name)
    except UserError:
        return None
    return setting if reads_setting(command, setting) else None


class Version(argparse.Action):
    """Prints versions, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, **named: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help=named.get("help"))

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        """Print them."""
        print(versions())
        parser.exit(0)


def versions() -> str:
    """Return the versions of Ziggurat, PyTorch and Python, without importing PyTorch."""
    ours, torch = (importlib.metadata.version(name) for name in ("ziggurat", "torch"))
    return f"ziggurat {ours} (PyTorch {torch}, Python {platform.python_version()})"


def split_settings(words: Sequence[str]) -> list[str]:
    """Return a command line in which each setting has a ``--set`` of its own, and no number that follows a flag looks like one.

    Example:
        >>> split_settings(["train", "--set", "lr=1", "data.crop=64", "digits"])
        ['train', '--set', 'lr=1', '--set', 'data.crop=64', 'digits']
        >>> split_settings(["train", "digits", "--lr", "-1e-3"])
        ['train', 'digits', '--lr=-1e-3']
    """
    return list(_join_numbers(_split(words)))


def _join_numbers(words: Iterable[str]) -> Iterator[str]:
    """Join flags and negative numbers of which argparse thinks that they are flags: those with an exponent."""
    flag = ""
    for word in words:
        if flag and _NEGATIVE.fullmatch(word):
            yield f"{flag}={word}"
            flag = ""
            continue
        if flag:
            yield flag
        flag = word if word.startswith("--") and "=" not in word else ""
        if not flag:
            yield word
    if flag:
        yield flag


def _split(words: Sequence[str]) -> Iterator[str]:
    place = "elsewhere"
    for word in words:
        if word == "--set":
            place = "flag"
        elif place == "flag":  # whatever follows belongs to it, right or wrong
            place = "value"
        elif place == "value" and _SETTING.match(word):
            yield "--set"
        else:
            place = "elsewhere"
        yield word
