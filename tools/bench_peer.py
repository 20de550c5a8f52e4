"""Starts what the benchmarks compare with, in a process of its own.

In: a Python that has the extra [parity], a script beside this one, what it is
asked. Out: the row that it prints. What is *not* here: the scripts.
"""

import json
import pathlib
import subprocess
import sys
from typing import Any

_TOOLS = pathlib.Path(__file__).resolve().parent


def ask(python: str, script: str, asked: dict[str, Any]) -> dict[str, Any]:
  """The last line of the script's output, which is told on stderr, too."""
  out = subprocess.run(
    [python, str(_TOOLS / script)],
    check=True,
    input=json.dumps(asked),
    stdout=subprocess.PIPE,
    text=True,
  )
  row = json.loads(out.stdout.splitlines()[-1])
  print(json.dumps(row), file=sys.stderr)
  return row
