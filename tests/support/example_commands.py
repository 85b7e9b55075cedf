"""Runs several commands in one process that has imported an example: python example_commands.py EXAMPLE COMMANDS.

COMMANDS is a JSON list of lists of words. Prints a JSON list with what each command has printed last, and its exit status.
"""

import contextlib
import importlib.util
import io
import json
import sys


def run_commands(example, commands):
    """Return the exit status and the last line of each command."""
    spec = importlib.util.spec_from_file_location("example", example)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = []
    for words in commands:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            status = module.main(words)
        lines = text.getvalue().strip().splitlines()
        results.append([status, lines[-1] if lines else ""])
    return results


if __name__ == "__main__":
    print(json.dumps(run_commands(sys.argv[1], json.loads(sys.argv[2]))))
