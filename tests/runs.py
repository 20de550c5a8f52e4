"""Runs of the real command line, and what they leave on disk.

In: flags. Out: processes that a signal strikes at a chosen file, and the
content of a run's folder in a form in which equal runs are equal. Not here:
models and problems (`tiny`, em/conftest.py).
"""

from collections.abc import Iterable, Mapping
import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import jax
import numpy as np

from restem_jax import checkpoints, main

ROOT = pathlib.Path(main.__file__).parents[1]
TENSORFLOW = 'tensorflow tensorflow_datasets tensorflow_text seqio clu keras'

# What stands between a run and the signal. With a file's name, it comes when
# the COUNT-th file is about to get that name, so that its half-written form
# stays; with `save`, while the COUNT-th checkpoint is being written.
_WRAPPER = """
import fnmatch, os, pathlib, signal, sys

for blocked in os.environ['BLOCKED'].split():
  sys.modules[blocked] = None

from etils import epath
from restem_jax import checkpoints, main

name, count = os.environ['AT'], int(os.environ['COUNT'])
number = getattr(signal, os.environ['SIGNAL'])
calls = 0


def strike():
  global calls
  calls += 1
  if calls == count:
    os.kill(os.getpid(), number)


local = type(epath.Path('.'))
replace, save = local.replace, checkpoints.Checkpoints.save


def killed_replace(path, target):
  if fnmatch.fnmatch(pathlib.Path(target).name, name):
    strike()
  return replace(path, target)


def killed_save(self, *args, **kwargs):
  save(self, *args, **kwargs)
  if name == 'save':
    strike()


local.replace, checkpoints.Checkpoints.save = killed_replace, killed_save
sys.exit(main.main(sys.argv[1:]))
"""


def in_folder(directory: pathlib.Path) -> str:
  """The flag that says where a run lives."""
  return f'--gin.MODEL_DIR={str(directory)!r}'


def command(
  flags: Iterable[str],
  *,
  at: str = '',
  count: int = 1,
  signal_name: str = 'SIGKILL',
  blocked: str = '',
) -> subprocess.CompletedProcess[str]:
  """Runs the command line in a process of its own.

  Args:
    flags: of the command line.
    at: where the signal strikes, see above; '' for nowhere.
    count: at which file of that name.
    signal_name: which signal.
    blocked: modules that cannot be imported.
  """
  started = _start(flags, at, count, signal_name, blocked)
  return _ended(started, timeout=300)


def on_hosts(
  flags: Iterable[str],
  num: int,
  *,
  struck: int = 1,
  at: str = '',
  count: int = 1,
  signal_name: str = 'SIGKILL',
  host_timeout: float = 20,
) -> list[subprocess.CompletedProcess[str]]:
  """Runs the command line as `num` processes that make one run.

  Args:
    flags: of the command line.
    num: how many processes.
    struck: which of them the signal strikes; the rest as `command`.
    at: see there.
    count: see there.
    signal_name: see there.
    host_timeout: seconds of silence after which a process counts as dead.
  """
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
  flags = [
    *flags,
    f'--coordinator_address=127.0.0.1:{port}',
    f'--process_count={num}',
    f'--host_timeout={host_timeout:g}',
  ]
  started = [
    _start(
      [*flags, f'--process_index={p}'],
      at if p == struck else '',
      count,
      signal_name,
      TENSORFLOW,
    )
    for p in range(num)
  ]
  return [_ended(process, timeout=300) for process in started]


def _start(flags, at, count, signal_name, blocked) -> subprocess.Popen[str]:
  env = os.environ | {
    'PYTHONPATH': str(ROOT),
    'AT': at,
    'COUNT': str(count),
    'SIGNAL': signal_name,
    'BLOCKED': blocked,
  }
  cache = jax.config.jax_compilation_cache_dir  # pyright: ignore
  if cache:
    env['JAX_COMPILATION_CACHE_DIR'] = cache
    env['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
  return subprocess.Popen(
    [sys.executable, '-c', _WRAPPER, *flags],
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _ended(process, timeout: float) -> subprocess.CompletedProcess[str]:
  try:
    out, err = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    process.kill()
    raise
  return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def arrays(tree: Any) -> dict[str, np.ndarray]:
  """The arrays of a tree of parameters by their paths."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(k): np.asarray(v) for k, v in leaves}


def final_files(directory: pathlib.Path, abstract: Any) -> dict[str, Any]:
  """Reads all that two equal runs have in common, by path.

  Left out are times (metrics, the seconds of summary.json), versions, and the
  memo, whose lines come in the order in which workers were ready.
  Checkpoints are compared as arrays: Orbax writes names and times into them.

  Args:
    directory: of the run.
    abstract: of the model's parameters.
  """
  found: dict[str, Any] = {}
  for path in sorted(p for p in directory.rglob('*') if p.is_file()):
    name = str(path.relative_to(directory))
    before, _, below = name.partition('/checkpoints/')
    if name.startswith(('metrics/', 'memo/')):
      continue
    elif '/' in below:
      step = f'{before}/checkpoints/{below.partition("/")[0]}'
      if step not in found:
        params = checkpoints.restore_params(directory / step, abstract)
        found[step] = {k: v.tobytes() for k, v in arrays(params).items()}
    elif name == 'summary.json':
      rows = json.loads(path.read_text())
      found[name] = [row | {'seconds': None} for row in rows]
    elif name == 'config.gin':
      lines = path.read_text().splitlines()
      found[name] = [x for x in lines if not x.startswith('# version')]
    else:
      found[name] = path.read_bytes()
  return found


def check_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
  """Asserts that two runs are the same; names the files that differ."""
  assert sorted(found.keys() ^ expected.keys()) == []
  assert [k for k in found if found[k] != expected[k]] == []
