"""The result of a verification for people."""

from __future__ import annotations

from typing import Any

MEGABYTE = 1e6
MEANINGS = {
    "rounding": "rounding: the network amplifies it (docs/verify.md), and no plan is to blame; give more images or larger ones",
    "unclear": "unclear: rounding moves this network so far on one worker that a fault might hide behind it; give more images or larger ones",
    "wrong": "wrong: the error is the plan's",
    "nondeterministic": "nondeterministic: the step on one worker is not the same twice, so nothing can be compared with it; "
    "let the network draw from PyTorch's, NumPy's or Python's generators alone, and keep nothing between steps",
}
MOST_GATHERS = 10  # lines; the JSON object has all


def format_result(result: dict[str, Any]) -> str:
    """Return the lines that the command prints.

    Args:
        result: The fields of the command's JSON object.
    """
    head = f"{result['model']}, {result['input']}, {result['dtype']}: {result['plan']} against one worker"
    head += f", {result['microbatches']} microbatches" if result["stages"] else ""
    body = _unsupported(result) if result["unsupported"] else [*_errors(result), "", *_costs(result)]
    return "\n".join([head, "", *body, "", _verdict(result)])


def _errors(result: dict[str, Any]) -> list[str]:
    rows = [
        ("loss", result["loss_error"], ""),
        ("outputs", result["output_error"], ""),
        ("gradients", result["gradient_error"], result["worst_parameter"]),
        ("input's gradient", result["input_error"], ""),
        ("buffers", result["buffer_error"], result["worst_buffer"]),
        ("gradient's norm", result["norm_error"], ""),
        ("state after", result["state_error"], result["worst_state"]),
    ]
    lines = [f"{'':18}{'relative error':>15}   worst"]
    for name, error, worst in rows:
        mark = "" if error <= result["bound"] else "   BROKEN"
        lines.append(f"{name:18}{error:15.1e}   {worst}{mark}".rstrip())
    return lines


def _costs(result: dict[str, Any]) -> list[str]:
    count = result["world_size"]
    lines = [f"{'':18}{'seconds a step':>15}{'peak MB a worker':>19}"]
    rows = [("1 worker", "single"), (f"{count} workers", "workers"), ("by rule of thumb", "estimate")]
    for name, cost in ((name, result[key]) for name, key in rows):
        peak = f"{cost['peak_bytes'] / MEGABYTE:.1f}" if cost["peak_bytes"] else "not counted"
        lines.append(f"{name:18}{cost['step_seconds']:15.2f}{peak:>19}")
    weights = ", ".join(f"{size / MEGABYTE:.1f}" for size in result["weight_bytes"])
    lines.append(f"MB of weights on each worker: {weights}")
    if result["communication_bytes"] is not None:
        lines.append(f"sent, all workers {result['communication_bytes'] / MEGABYTE:15.1f} MB")
    if result["exchange"]:
        lines += _exchange(result["exchange"])
    if result["stages"]:
        lines += ["", *_stages(result)]
    lines += ["", *_splits(result)] if result["min_width"] is not None else []
    if result["bubble"]:
        bubble = result["bubble"]
        lines += [
            "",
            f"bubble (share of time without computing): {bubble['measured']:.2f} measured; {bubble['simulated']:.2f} of these "
            f"durations without messages; {bubble['balanced']:.2f} of equal stages",
        ]
    lines += [f"written: {' and '.join(result['timeline'])}"] if result.get("timeline") else []
    if result["branches"]:
        lines += ["", *_branches(result["branches"])]
    if result["gathers"]:
        lines += ["", "gathered whole (MB that a worker receives, layer, operation):"]
    for gather in result["gathers"][:MOST_GATHERS]:
        lines.append(f"{gather['bytes'] / MEGABYTE:10.3f}  {gather['layer']}  {gather['operation']}")
    if len(result["gathers"]) > MOST_GATHERS:
        lines.append(f"{'':10}  and {len(result['gathers']) - MOST_GATHERS} more")
    return lines


def _exchange(exchange: dict[str, Any]) -> list[str]:
    """Return a line for what a worker sends in the sums over samples, and one for each tier where there are several."""
    tiers = exchange["tiers"] if len(exchange["tiers"]) > 1 else []
    rows = [("summing samples", exchange), *((f"  {tier['workers']} that meet", tier) for tier in tiers)]
    return [
        f"{name:18}{row['bytes'] / MEGABYTE:15.1f} MB in {row['messages']} messages, {row['shared_bytes'] / MEGABYTE:.1f} MB through shared "
        "memory"
        for name, row in rows
    ]


def _stages(result: dict[str, Any]) -> list[str]:
    """Return a line for each stage of a pipeline."""
    lines = [
        f"stages ({result['schedule']}; of a microbatch, as the first worker measured it alone):",
        f"{'':8}{'worker':>6}{'seconds':>10}{'weights MB':>12}{'kept MB':>9}{'over the cut MB':>17}   starts at",
    ]
    for stage in result["stages"]:
        sizes = [stage[f"{kind}_bytes"] / MEGABYTE for kind in ("state", "kept", "crossing")]
        lines.append(
            f"{stage['number']:>8}{stage['worker']:>6}{stage['seconds']:10.4f}{sizes[0]:12.2f}{sizes[1]:9.2f}"
            f"{sizes[2]:17.3f}   {stage['name'] or 'the input'}"
        )
    return lines


def _branches(branches: dict[str, Any]) -> list[str]:
    """Return a line for each worker's branches, and the bound of the speed-up."""
    total = sum(branches["seconds"])
    lines = ["branches (seconds of forward, as the first worker measured all calls):"]
    lines += [
        f"{'worker':>8}{worker:>4}{seconds:10.4f}{seconds / total:7.0%}"
        for worker, seconds in enumerate(branches["seconds"])
    ]
    return [
        *lines,
        f"at most {branches['bound']:.2f} times as fast as one worker (by these times, without messages)",
    ]


def _splits(result: dict[str, Any]) -> list[str]:
    """Return a line for each pair of layers that is split over workers."""
    lines = [f"split over tp:{'width':>8}{'weights MB':>12}{'of a worker':>13}   layers"]
    for split in result["splits"]:
        whole, kept = (split[f"{of}_bytes"] / MEGABYTE for of in ("whole", "worker"))
        layers = f"{split['first']} > {split['second']}" if split["second"] else f"{split['first']} (classes)"
        lines.append(f"{'':14}{split['width']:>8}{whole:12.3f}{kept:13.3f}   {layers}")
    return lines


def _unsupported(result: dict[str, Any]) -> list[str]:
    return [
        f"{one['operation']} in the layer '{one['layer']}': {one['reason']}; {one['remedy']}"
        for one in result["unsupported"]
    ]


def _verdict(result: dict[str, Any]) -> str:
    if result["ok"]:
        return f"ok: all errors are within {result['bound']:.0e}"
    if result["unsupported"]:
        return f"no: the model cannot run under {result['plan']}"
    verdict = (
        f"no: a bound of {result['bound']:.0e} is broken; the worst parameter is {result['worst_parameter']} "
        f"({result['gradient_error']:.1e})\n{result['why']}"
    )
    return f"{verdict}\n{MEANINGS[result['verdict']]}"
