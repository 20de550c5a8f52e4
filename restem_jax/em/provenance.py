"""What a run is: configuration, versions, fingerprints of data and weights.

In: those of the process that starts. Out: `config.gin`, written once; a later
process whose run differs is refused with the difference. What is *not* here:
gin (`main` renders the configuration to text).
"""

from collections.abc import Mapping
import difflib
import logging
import re

from etils import epath

from restem_jax import multihost, shards

_log = logging.getLogger(__name__)

_VERSION = '# version: '
_FINGERPRINT = '# fingerprint: '
# More iterations may be asked for later, and another mesh or number of hosts
# may go on: they change rounding only. So may more samples in evaluations:
# each setting's lie in a folder of its own. Everything else decides what the
# files hold.
_FREE = re.compile(
  r'(NUM_ITERATIONS|LOG_SAMPLES|(\w+\.)*System\.mesh|(\w+\.)*MeshShape\.\w+) = '
  r'|(from restem_jax )?import (restem_jax\.)?partitioning\b'
  r'|from restem_jax\.em import sampled|loop\.System\.sampled = '
  r'|sampled\.SampledEvaluation\.'
  r'|loop\.System\.output = '  # where `export` writes: no part of a run
)


def _identity(text: str) -> list[str]:
  """The lines that two processes of one run must share."""
  return [
    line
    for line in text.splitlines()
    if line
    and (not line.startswith('#') or line.startswith(_FINGERPRINT))
    and not _FREE.match(line)
  ]


def check(
  model_dir: epath.Path,
  config_text: str,
  versions: Mapping[str, str],
  fingerprints: Mapping[str, str],
) -> None:
  """Writes `config.gin`, or compares this run with it.

  Args:
    model_dir: the run.
    config_text: bindings, one a line.
    versions: of libraries and code; a change is logged, not refused.
    fingerprints: of problems, weights, tokenizer.

  Raises:
    ValueError: configuration, data or weights differ from those of the run,
      whose difference is shown, or between hosts; or a host does not see
      `model_dir`.
  """
  lines = ['# Written when the run began; it must stay the same.']
  lines += [f'{_VERSION}{k} {v}' for k, v in sorted(versions.items())]
  lines += [f'{_FINGERPRINT}{k} {v}' for k, v in sorted(fingerprints.items())]
  text = '\n'.join(lines) + '\n\n' + config_text
  path = model_dir / 'config.gin'
  _check_hosts(text)
  multihost.first('config.gin', lambda: _check_run(path, text))
  if not path.exists():
    raise ValueError(
      f'{path} is not seen by process {multihost.index()}, though process 0 '
      'wrote it; put MODEL_DIR where all hosts see it, e.g. gs://… or NFS'
    )


def _check_hosts(text: str) -> None:
  """Refuses hosts that were started for different runs."""
  mine = _identity(text)
  theirs = multihost.first('the configuration', lambda: mine)
  same = multihost.gather('the same configuration', theirs == mine)
  if theirs != mine:
    diff = difflib.unified_diff(theirs, mine, lineterm='', n=0)
    raise ValueError(
      f'process {multihost.index()} is of another run than process 0 (- there, '
      '+ here); start all hosts with the same command, data and weights:\n  '
      + '\n  '.join(x for x in diff if not x.startswith(('---', '+++', '@@')))
    )
  if not all(same):
    others = ', '.join(str(p) for p, ok in enumerate(same) if not ok)
    raise ValueError(
      f'process {others} is of another run than process 0: its log shows the '
      'difference; start all hosts with the same command, data and weights'
    )


def _check_run(path: epath.Path, text: str) -> None:
  model_dir = path.parent
  if not path.exists():
    shards.clean(model_dir, 'config.gin')
    shards.write_atomic(path, text)
    return
  old = path.read_text()
  diff = [
    line
    for line in difflib.unified_diff(
      _identity(old), _identity(text), lineterm='', n=0
    )
    if not line.startswith(('---', '+++', '@@'))
  ]
  if diff:
    raise ValueError(
      f'{path} is of another run (- there, + now); give another MODEL_DIR or '
      'undo the change:\n  ' + '\n  '.join(diff)
    )
  was = {line for line in old.splitlines() if line.startswith(_VERSION)}
  for line in text.splitlines():
    if line.startswith(_VERSION) and line not in was:
      _log.warning('since this run began, changed: %s', line[2:])
