"""The line of JSON that a benchmark prints for a figure.

In: a figure, its unit, the workload. Out: a line on stdout that has the machine
and its jax, too. What is *not* here: benchmarks without jax.
"""

import json
import os
import platform
from typing import Any

import jax


def show(
  figure: str, value: float | None, unit: str, workload: str, **more: Any
) -> None:
  """Prints it; None is what can't be known here, and `more` says why."""
  row = {
    'figure': figure,
    'value': None if value is None else round(value, 3),
    'unit': unit,
    'workload': workload,
    'machine': f'{platform.machine()}, {os.cpu_count()} cores, '
    f'{jax.devices()[0].device_kind}, jax {jax.__version__}',
  }
  print(json.dumps(row | more), flush=True)
