"""The cases: every setting, flag and axis of a plan with bad values, and mutations of a config and of a table of boxes.

A case is a pure function of its place in the list: ``python tests/settings_fuzz/main.py --only 17`` runs it alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from settings_fuzz.data import CONFIG, HEADER, MODELS, ROWS, SCENES, TINY
from ziggurat.cli.options import RUN_FLAGS, TRAINED_FLAGS
from ziggurat.config import RunConfig, known_keys
from ziggurat.config.fields import settings_of
from ziggurat.config.reads import READ_STILL, UNREAD, matches
from ziggurat.strategies.registry import STRATEGIES
from ziggurat.tasks.registry import TASKS

VALUES = (
    "", "-1", "0", "nan", "1e300", "-1e300", "1e-300", "99999999999999999999", "1.5", "none", "\N{SNOWMAN}", "x" * 5000,
)  # fmt: skip
MORE_VALUES = (" ", "true", "[1, 2]", "../..", "a\tb", "1,2", "1" * 5000, "inf", "0x10", "1_0", "-0", "=")
PLANS = (
    "dp=0", "dp=-1", "dp=1.5", "dp=x", "dp=", "dp", "=2", "dp=2,dp=2", "dp=99", "sp=99", "sp=0x2", "sp=2x2x2", "pp=99999999",
    "dp=2;sp=2", "dp 2", "dp=" + "9" * 5000, "sp=1000000x1000000", "auto", ",", "dp=2,", "\N{SNOWMAN}", "lp=3,pp=3", "tp=17",
    "fsdp=2,dp=2",
)  # fmt: skip
ABOUT_PLANS = ("plan", "axis", "degree", *STRATEGIES)
WHERE = {  # what a setting needs to have an effect, besides its task
    "pipeline.cut": ("--plan", "pp=2"), "pipeline.schedule": ("--plan", "pp=2"), "pipeline.max_bytes": ("--plan", "pp=2"),
    "pipeline.checkpoint": ("--plan", "pp=2"), "pipeline.unit_bytes": ("--plan", "fsdp=2"),
    "tensor.min_width": ("--plan", "tp=2"), "model.spp_bins": ("--model", "spp-test_resnet"),
    "loss.dice_weight": ("--set", "loss.segmentation=ce+dice"), "data.resize_limit": ("--set", "data.resize=32"),
    "train.drops": ("--set", "train.schedule=step"), "train.drop_factor": ("--set", "train.schedule=step"),
    "data.repeat_threshold": ("--set", "data.balance=repeat"),
    "loss.effective_beta": ("--set", "loss.class_weights=effective"),
    "loss.equalized_scale": ("--set", "loss.detection=equalized"),
    **dict.fromkeys(
        ("members.stratify", "members.groups"), ("--set", "members.count=2", "--set", "members.data=disjoint")
    ),
    **dict.fromkeys(("members.data", "members.member", "members.seed"), ("--set", "members.count=2")),
    **dict.fromkeys(
        ("local_sgd.sync_every", "local_sgd.outer_lr", "local_sgd.outer_momentum"), ("--set", "local_sgd.replicas=2")
    ),
    "train.patience": ("--set", "train.evaluate_every=1"),
    "checkpoint.keep_best": ("--set", "train.evaluate_every=1"),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One command.

    Attributes:
        name: What it is about.
        words: The command's; ``{out}``, ``{run}``, ``{images}``, ``{config}`` and ``{csv}`` stand for paths.
        about: What a refusal must name: one of these.
        config: Text of the config file.
        csv: Bytes of the table of boxes.
    """

    name: str
    words: tuple[str, ...]
    about: tuple[str, ...] = ()
    config: str = ""
    csv: bytes = b""


def all_cases() -> list[Case]:
    """Return every case of the long form, in order."""
    return [
        *_of_settings(VALUES),
        *_of_flags(),
        *_of_plans(),
        *_of_other_commands(),
        *_of_configs(),
        *_of_tables(),
    ]


def short_cases() -> list[Case]:
    """Return a part that names every setting once, and has some of each other kind."""
    settings = list(_of_settings((*VALUES, *MORE_VALUES)))
    count = len(VALUES) + len(MORE_VALUES)
    ours = [settings[place * count + (7 * place) % count] for place in range(len(known_keys()))]
    others = [
        list(_of_flags()),
        list(_of_plans()),
        list(_of_other_commands()),
        list(_of_configs()),
        list(_of_tables()),
    ]
    return [*ours, *(case for kind in others for case in kind[:: max(1, len(kind) // 12)])]


def _train(key: str = "") -> tuple[str, ...]:
    """Return a run of one step in which a setting has an effect."""
    task = next((name for name, one in TASKS.items() if matches(one.settings or (), key)), "detect")
    if key.startswith("model.pnn") or key == "model.spp_bins":
        task = "classify"
    model = WHERE[key] if key == "model.spp_bins" else MODELS[task]
    more = () if key == "model.spp_bins" else WHERE.get(key, ())
    plan = () if "--plan" in more else ("--plan", "dp=1")
    words = ["--task", task, *plan, *TINY, *SCENES, *model, *more]
    for flag, its_key in RUN_FLAGS.items():  # what is set may not be given by a flag, too
        if its_key == key and flag in words:
            place = words.index(flag)
            del words[place : place + 2]
    data = () if key == "data.path" else ("digits",)
    return ("train", *data, "--out", "{out}", *words)


def _of_settings(values: tuple[str, ...]) -> Iterator[Case]:
    for key in known_keys():
        for value in values:
            about = (
                key,
                key.rpartition(".")[2],
                *(("data set",) if key in ("data.path", "data.val") else ()),
            )
            yield Case(f"{key}={value}", (*_train(key), "--set", f"{key}={value}"), about)


def _of_flags() -> Iterator[Case]:
    for flag, key in RUN_FLAGS.items():
        for value in VALUES:
            about = (flag, key, key.rpartition(".")[2], "batch", "microbatch")
            yield Case(f"{flag} {value}", (*_train(key), flag, value), about)
    for flag, key in TRAINED_FLAGS.items():
        for value in VALUES[1:8]:
            words = ("predict", "{run}", "{images}", "--out", "{out}", flag, value)
            yield Case(f"predict {flag} {value}", words, (flag, key, key.rpartition(".")[2]))


def _of_plans() -> Iterator[Case]:
    for plan in PLANS:
        yield Case(f"train {plan}", (*_train(), "--plan", plan), ABOUT_PLANS)
        yield Case(
            f"verify {plan}",
            ("verify", "pnn", "--input", "2x3x16x16", "--plan", plan),
            ABOUT_PLANS,
        )
    for axis in STRATEGIES:
        for value in VALUES:
            yield Case(f"train {axis}={value}", (*_train(), "--plan", f"{axis}={value}"), ABOUT_PLANS)
    for shape in (
        "",
        "x",
        "0x3x8x8",
        "2x3",
        "2x3x8x8x8x8",
        "2x3x-8x8",
        "2x3x1e3x8",
        "9" * 5000 + "x3x8x8",
        "2x3x99999999x99999999",
    ):
        yield Case(f"verify {shape}", ("verify", "pnn", "--input", shape), ("--input", "memory"))


def _of_other_commands() -> Iterator[Case]:
    """Yield settings that a command does not read, and words that none knows."""
    commands = {
        "evaluate": ("evaluate", "{run}", "digits"),
        "predict": ("predict", "{run}", "{images}", "--out", "{out}"),
        "check": ("check", "digits"),
        "convert": ("convert", "digits", "{out}", "--format", "coco"),
        "verify": ("verify", "pnn", "--input", "2x3x16x16"),
        "plan": ("plan", "pnn", "--input", "2x3x16x16"),
    }
    default = {key: value for key, value, _ in settings_of(RunConfig())}
    for command, words in commands.items():
        unread = [key for key in known_keys() if matches(UNREAD[command], key)]
        for key in unread:
            if not matches(READ_STILL.get(command, ()), key):
                yield Case(f"{command} {key}", (*words, "--set", f"{key}={default[key]}"), (key,))
        for value in (
            "nonsense=1",
            "train.lrr=1",
            "train=1",
            "=1",
            "lr",
            "levels=p3",
            "seed",
            "train.lr.x=1",
            "",
            "a.b.c=1",
        ):
            yield Case(f"{command} {value}", (*words, "--set", value), ("--set", "setting", "missing"))
        for flag in ("--lrr", "--see", "--thread=1", "--jso", "--sets", "-x", "--", "--quiet=1"):
            yield Case(f"{command} {flag}", (*words, flag), ("flag", "argument", "nothing takes"))
    for word in ("", "trian", "TRAIN", "--verion", "-h1", "\N{SNOWMAN}"):
        yield Case(f"command {word}", (word,), ("command", "flag", "missing", "argument"))


def _of_configs() -> Iterator[Case]:
    """Yield mutations of a config: of its lines, its letters and its values."""
    lines = CONFIG.splitlines()
    draw = random.Random(0)
    texts = [
        "", "\n", "[]", "3", "a: [", "a: &a {b: *a}", "train: &a {lr: *a}", "\ufeff" + CONFIG, CONFIG.replace("\n", "\r\n"),
        CONFIG + "---\n" + CONFIG, CONFIG + "train: {lr: 1}\n", CONFIG + "lr: 1\n", CONFIG + "model:\n", CONFIG.replace("  ", "\t"),
        CONFIG + "seed: 3\n", "[" * 5000, "seed: " + "9" * 5000, CONFIG + "? [1]\n: 2\n", CONFIG + "!!python/name:os.system : 1\n",
        CONFIG.replace("flip: none", "flip: no"), CONFIG.replace("lr: 0.001", "lr: 1e-3"), CONFIG.replace("seed: 3", "seed: 2020-13-45"),
    ]  # fmt: skip
    for number in range(60):
        place = draw.randrange(len(lines))
        key, _, value = lines[place].partition(": ")
        indent = re.match(" *", lines[place])
        changed = {
            0: [f"{key}: {draw.choice([*VALUES[:-1], *MORE_VALUES])}"],
            1: [lines[place], lines[place]],
            2: [],
            3: [f" {lines[place]}"],
            4: [f"{key}x: {value}"],
            5: [
                lines[place].replace(draw.choice(lines[place]), draw.choice("{}[]:#&*!|>'\"%@`\x00\u2028"), 1)
            ],
            6: [f"{indent[0] if indent else ''}{draw.choice(known_keys())}: 1"],
        }[number % 7]
        texts.append("\n".join([*lines[:place], *changed, *lines[place + 1 :]]) + "\n")
    for number, text in enumerate(texts):
        words = ("train", "--config", "{config}", "--out", "{out}")
        yield Case(f"config {number}", words, (), config=text)


def _of_tables() -> Iterator[Case]:
    """Yield mutations of a table of boxes, each checked and trained on."""
    table = "\n".join([HEADER, *ROWS]) + "\n"
    draw = random.Random(1)
    texts = [
        b"", b"\n", table.encode("utf-16"), b"\xef\xbb\xbf" + table.encode(), table.replace(",", ";").encode(),
        table.replace("\n", "\r\n").encode(), table.replace("\n", "\r").encode(), "\n".join(ROWS).encode(), HEADER.encode(),
        table.replace("oak", "ch\xeane").encode("latin-1"), table.replace("0.png", "../../../etc/passwd").encode(),
        table.replace("0.png", "").encode(), table.replace("0.png", ".").encode(), table.replace("0.png", "http://x/0.png").encode(),
        table.replace("0.png", "C:\\images\\0.png").encode(), table.replace("oak", "x" * 100000).encode(),
        table.replace("oak", "").encode(), table.replace("oak", "=1+1").encode(), table.replace("oak", "a\x00b").encode(),
        table.replace("oak", '"oak').encode(), (HEADER + "\n" + ROWS[0] + "\n") .encode() * 3, table.replace(",", "\t").encode(),
        (table + ",".join(["1"] * 2000) + "\n").encode(), table.replace("label", "LABEL").encode(), table.replace("xmin", "xmax").encode(),
    ]  # fmt: skip
    for number in range(35):
        rows = [row.split(",") for row in table.splitlines()]
        row = draw.randrange(1, len(rows))
        column = draw.randrange(len(rows[row]))
        if number % 5 == 4:
            del rows[row][column]
        else:
            rows[row][column] = draw.choice([*VALUES[:-1], *MORE_VALUES, "-5", "1e9", "40"])
        texts.append("\n".join(",".join(row) for row in rows).encode())
    for number, text in enumerate(texts):
        yield Case(f"table {number}, checked", ("check", "{csv}"), (), csv=text)
        words = ("train", "{csv}", "--plan", "dp=1", "--out", "{out}", *TINY, *MODELS["detect"])
        yield Case(f"table {number}, trained on", words, (), csv=text)
