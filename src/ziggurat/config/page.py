"""The page of all settings, docs/settings.md, from the settings themselves: ``python -m ziggurat.config.page > docs/settings.md``."""

from __future__ import annotations

import dataclasses
import sys
import typing
from typing import Any, Literal

from ziggurat.config.fields import about
from ziggurat.config.records import RunConfig

HEAD = """# Settings

Every setting, with its default. `--set KEY=VALUE ...` on the command line (`lr=0.01` is enough for `train.lr`: the last part of a name
that no other setting has), or `--config FILE` with the whole names as nested YAML; each run writes all of them to its `config.yaml`.
What is out of its range, unknown, given twice or without an effect (of another task, model or plan, or not read by the command) is refused. This page is made from `src/ziggurat/config/` by
`python -m ziggurat.config.page`.
"""

MORE = {
    "pipeline": "[pipeline.md](pipeline.md)",
    "tensor": "[tensor.md](tensor.md)",
    "launch": "[reliability.md](reliability.md)",
    "loss": "[step.md](step.md)",
}
KINDS = {int: "whole number", float: "number", str: "text", bool: "true, false"}


def settings_page() -> str:
    """Return the page as Markdown."""
    return "\n".join([HEAD, *_sections(RunConfig, "")])


def _sections(record: type, prefix: str) -> list[str]:
    hints = typing.get_type_hints(record)
    items = dataclasses.fields(record)
    nested = [item for item in items if dataclasses.is_dataclass(hints[item.name])]
    name = prefix.rstrip(".")
    intro = " ".join((record.__doc__ or "").split()).replace("``", "`")
    more = f" More: {MORE[name]}." if name in MORE else ""
    lines = [
        f"## {name or 'run'}",
        "",
        intro + more,
        "",
        "| setting | default | values | meaning |",
        "|---|---|---|---|",
    ]
    for item in items:
        if item not in nested:
            known = about(item)
            values = _values(hints[item.name], "" if known.rule is None else known.rule.short)
            help = known.help.replace("``", "`").replace("|", "\\|")
            lines.append(f"| `{prefix}{item.name}` | {_shown(item.default)} | {values} | {help} |")
    lines.append("")
    for item in nested:
        lines += _sections(hints[item.name], f"{prefix}{item.name}.")
    return lines


def _values(kind: Any, bound: str) -> str:
    """Say what a setting may be."""
    if typing.get_origin(kind) is Literal:
        return ", ".join(typing.get_args(kind))
    return f"{KINDS[kind]}, {bound}" if bound else KINDS[kind]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "(empty)" if value == "" else str(value)


if __name__ == "__main__":
    sys.stdout.write(settings_page())
