"""Known data sets from where they are published: TFDS, then the hub.

In: the name of a data set. Out: its problems by split. Used only where no
path is given; a file or folder at hand is read by `data.jsonl`.
"""

from collections.abc import Iterable, Mapping
import logging
import socket
from typing import Any
import urllib.request

import tensorflow_datasets as tfds

from restem_jax.data import layouts
from restem_jax.records import Problem

_logger = logging.getLogger(__name__)

# The hub's name of a set, and its parts. MATH: 7500 train, 5000 test problems.
_HUB: Mapping[str, tuple[str, tuple[str, ...]]] = {
  'gsm8k': ('openai/gsm8k', ('main',)),
  'hendrycks_math': (
    'EleutherAI/hendrycks_math',
    (
      'algebra',
      'counting_and_probability',
      'geometry',
      'intermediate_algebra',
      'number_theory',
      'prealgebra',
      'precalculus',
    ),
  ),
}
_TFDS = {'gsm8k': 'gsm8k'}
_SPLITS = ('train', 'test')  # neither has a validation split


def load(name: str) -> dict[str, list[Problem]]:
  """Train and test problems of 'gsm8k' or 'hendrycks_math'.

  Raises:
    ValueError: if none of the places has it, saying which flag to give.
  """
  assert name in _HUB, name
  failures = []
  for place, rows_fn in (('TFDS', _tfds_rows), ('the hub', _hub_rows)):
    _logger.info('%s: looking in %s', name, place)
    try:
      rows = {split: list(rows_fn(name, split)) for split in _SPLITS}
    except Exception as e:  # each library raises kinds of its own
      reason = (str(e) or repr(e)).splitlines()[0]
      failures.append(f'{place}: {reason}')
      continue
    return {
      split: [
        layouts.row_fn(name)(row, f'{name}/{split}/{number}', name)
        for number, row in enumerate(rows[split], 1)
      ]
      for split in _SPLITS
    }
  raise ValueError(
    f'{name} can be had neither from TFDS nor from the hub'
    f' ({"; ".join(failures)}). Give a JSONL file or folder:'
    f' --gin.DATA_PATH="\'/path/to/{name}\'"'
  )


def _tfds_rows(name: str, split: str) -> Iterable[dict[str, Any]]:
  if name not in _TFDS:
    raise ValueError('not among its data sets')
  builder = tfds.builder(_TFDS[name])
  if not builder.is_prepared():
    _check_network('raw.githubusercontent.com')
    builder.download_and_prepare()
  rows: Any = tfds.load(_TFDS[name], split=split, download=False)
  for row in tfds.as_numpy(rows):
    yield {key: row[key].decode() for key in ('question', 'answer')}


def _check_network(host: str) -> None:
  """Fails at once where TFDS would try again for minutes."""
  if urllib.request.getproxies():
    return  # The proxy knows the names of hosts, this machine need not.
  try:
    socket.getaddrinfo(host, 443)
  except OSError as e:
    raise ValueError(f'{host} is not to be reached ({e})') from None


def _hub_rows(name: str, split: str) -> Iterable[dict[str, Any]]:
  try:
    import datasets  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise ValueError(f"{e}; pip install 'restem_jax[hub]'") from None
  path, parts = _HUB[name]
  for part in parts:
    for row in datasets.load_dataset(path, part, split=split):
      yield dict(row)
