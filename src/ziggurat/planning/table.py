"""The result of a search for a plan, for people."""

from __future__ import annotations

from typing import Any

from ziggurat.config.names import shown_name
from ziggurat.planning.noise import format_noise

LITTLE = 0.005  # of the seconds that are guessed
PAYS = 1.05  # times as fast, less than which is not worth that a run has other numbers
SHOWN = 10  # plans; the JSON object has all
MOST_NAMED = 6  # plans of one reason
MOST_REASONS = 160  # letters of why a plan is refused


def format_plans(result: dict[str, Any]) -> str:
    """Return the lines that the command prints.

    Args:
        result: The fields of the command's JSON object.
    """
    machines = f" on {result['machines']} machines" if result["machines"] > 1 else ""
    of = f", {result['microbatches']} microbatches" if result["for"] == "train" else ""
    if result["images_per_worker"]:
        of = f" ({result['images_per_worker']} of each worker){of}"
    step = "a step of training" if result["for"] == "train" else "a prediction of these images"
    lines = [f"{result['model']}, {result['input']}{of}, {result['workers']} workers{machines}: {step}", ""]
    width = max([4, *(len(_named(row)) for row in result["plans"][:SHOWN])]) + 2
    measured = any(row["measured_seconds"] is not None for row in result["plans"])
    lines.append(
        f"{'plan':{width}}{'seconds':>9}{'measured':>10}{'images/s':>10}{'peak MB':>10}{'idle':>6}{'sent MB':>9}{'guessed':>9}"
        if measured
        else f"{'plan':{width}}{'seconds':>9}{'images/s':>10}{'peak MB':>10}{'idle':>6}{'sent MB':>9}{'guessed':>9}"
    )
    for row in result["plans"][:SHOWN]:
        real = row["measured_seconds"]
        taken = (f"{real:10.3f}" if real is not None else " " * 10) if measured else ""
        lines.append(
            f"{_named(row):{width}}{row['step_seconds']:9.3f}{taken}{row['images_per_second']:10.2f}{row['peak_bytes'] / 1e6:10.1f}"
            f"{row['idle']:6.0%}{_megabytes(row['communication_bytes']):>9}{row['guessed']:9.0%}"
        )
    if len(result["plans"]) > SHOWN:
        lines.append(f"and {len(result['plans']) - SHOWN} more")
    lines += ["", *_left(result)]
    if (beside := result.get("beside_kernels")) is not None:
        how = "measured on this machine" if beside["measured"] else "assumed"
        lines.append(
            f"beside kernels: {beside['call_seconds'] * 1e6:.1f} us a call, {beside['message_seconds'] * 1e3:.2f} ms a message, "
            f"{beside['step_seconds'] * 1e3:.1f} ms a step ({how})"
        )
    if any(row["guessed"] >= LITTLE for row in result["plans"][:SHOWN]):
        lines.append(
            "guessed: the share of a plan's kernel seconds that was not measured, but is told by kernels that are alike"
        )
    if (wires := result.get("wires")) is not None:
        lines += _wires(wires, result["machines"])
    if (noise := result.get("noise_scale")) is not None:
        lines += format_noise(noise)
    if result["not_planned"]:
        lines += ["", "not looked at in so large a world:"]
        lines += [f"  {row['plans']} plans: {row['reason']}" for row in result["not_planned"]]
    if result["refused"]:
        lines += ["", "refused:", *_refused(result["refused"])]
    if result.get("timeline"):
        lines += ["", f"written: {' and '.join(result['timeline'])}"]
    return "\n".join(lines)


def _wires(rows: list[dict[str, Any]], num_machines: int) -> list[str]:
    """Return lines on what narrow gradients would give."""
    if not rows:
        why = "gradients go through the memory of one machine"
        return [f"plan.wire: nothing to save, as {why}"] if num_machines == 1 else []
    said = [
        f"{row['settings']['pipeline.wire']} {row['step_seconds']:.3f} s, {_megabytes(row['communication_bytes'])} MB, "
        f"{row['times_as_fast']:.2f} times as fast"
        for row in rows
    ]
    fastest = max(row["times_as_fast"] for row in rows)
    verdict = "pays here, with other numbers" if fastest >= PAYS else "does not pay here"
    return [f"plan.wire under {rows[0]['plan']}: {'; '.join(said)}: it {verdict}"]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}" if count < 1e12 else f"{count / 1e6:.2e}"


def _refused(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each reason, with the plans that it refuses."""
    alike: dict[str, set[str]] = {}
    for row in rows:
        alike.setdefault(row["reason"].replace(row["plan"], "..."), set()).add(row["reason"])
    plans: dict[str, list[str]] = {}
    for row in rows:  # reasons that name their plan stand by themselves, unless there are many
        same = row["reason"].replace(row["plan"], "...")
        many = len(alike[same]) > MOST_NAMED
        named = row["plan"] if many or row["plan"] not in row["reason"] else ""
        plans.setdefault(_short(same if many else row["reason"]), []).append(named)
    lines = []
    for reason, several in plans.items():
        named_plans = list(dict.fromkeys(one for one in several if one))
        more = f" and {len(named_plans) - MOST_NAMED} more" if len(named_plans) > MOST_NAMED else ""
        lines.append(f"  {', '.join(named_plans[:MOST_NAMED])}{more}{': ' if named_plans else ''}{reason}")
    return lines


def _named(row: dict[str, Any]) -> str:
    return " ".join([row["plan"], *(f"{shown_name(key)}={value}" for key, value in row["settings"].items())])


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= MOST_REASONS else f"{line[: MOST_REASONS - 4]} ..."


def _left(result: dict[str, Any]) -> list[str]:
    """Return how sure it is that the best are the best."""
    left, took = result["left"], f"{result['planning_seconds']:.0f} s"
    if not left:
        return [f"all plans were looked at, in {took}"]
    if result["certain"]:
        return [
            f"{len(left)} plans were not looked at, as they cannot be among the best {result['num_best']}; {took}"
        ]
    first = left[0]
    return [
        f"{len(left)} plans were not looked at, as the time was spent ({took}; --seconds has more); of these the first is "
        f"{_named(first)}, which takes {first['least_seconds']:.3f} s at least"
    ]
