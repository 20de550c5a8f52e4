"""The run in one table: a row per iteration.

In: the files that the stages wrote. Out: `summary.json` and the table on the
console. What is *not* here: figures, the HTML page (`report/`).
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
import sys
import time
from typing import Any

from etils import epath
from rich import console as rich_console, table as rich_table

from restem_jax import multihost, shards
from restem_jax.em import improve
from restem_jax.records import EvalReport


@contextlib.contextmanager
def timed(directory: epath.Path, iteration: int, stage: str) -> Iterator[None]:
  """Adds a row of wall seconds to metrics/stages.jsonl when a stage ends."""
  start = time.monotonic()
  yield
  if not multihost.is_first():
    return
  row = {
    'iteration': iteration,
    'stage': stage,
    'seconds': round(time.monotonic() - start, 2),
  }
  path = directory / 'metrics' / 'stages.jsonl'
  path.parent.mkdir(parents=True, exist_ok=True)
  # Not appended to: what lies in a bucket cannot grow.
  earlier = path.read_text() if path.exists() else ''
  shards.write_atomic(path, earlier + json.dumps(row) + '\n')


_FIELDS = (
  'accuracy',
  'interval',
  'num_correct',
  'num_problems',
  'num_timeouts',
  'num_grader_errors',
  'reasons',
  'sampled',
)


def _seconds(directory: epath.Path) -> dict[int, dict[str, float]]:
  """Iteration -> stage -> seconds, summed over restarts."""
  out: dict[int, dict[str, float]] = {}
  path = directory / 'metrics' / 'stages.jsonl'
  for line in path.read_text().splitlines() if path.exists() else ():
    row = json.loads(line)
    stages = out.setdefault(row['iteration'], {})
    total = stages.get(row['stage'], 0.0) + row['seconds']
    stages[row['stage']] = round(total, 2)
  return out


def rows(directory: epath.Path) -> list[dict[str, Any]]:
  """One dict per iteration that has been evaluated or selected for."""
  seconds = _seconds(directory)
  out = []
  for folder in sorted(directory.glob('iteration_*')):
    iteration = int(folder.name.removeprefix('iteration_'))
    row: dict[str, Any] = {'iteration': iteration, 'accuracy': {}}
    for path in sorted(folder.glob('eval/*/report.json')):
      for name, report in json.loads(path.read_text()).items():
        row['accuracy'][f'{name}/{report["split"]}'] = {
          k: report[k]
          for k in _FIELDS
          if k in report  # an older run's lacks some
        }
    if (path := folder / 'dataset' / 'select.json').exists():
      selected = json.loads(path.read_text())
      row |= {k: v for k, v in selected.items() if k != 'kept'}
    if (outcome := improve.read(folder / 'checkpoints')) is not None:
      row['validation_reward'] = outcome.validation_reward
      row['num_steps'] = outcome.num_steps
      row['best_step'] = outcome.best_step
    row['seconds'] = seconds.get(iteration, {})
    out.append(row)
  return out


def write(directory: epath.Path) -> None:
  """Writes summary.json; among several processes, the first does."""
  if not multihost.is_first():
    return
  shards.clean(directory, 'summary.json')
  text = json.dumps(rows(directory), indent=1)
  shards.write_atomic(directory / 'summary.json', text + '\n')


def _percent(accuracy: Mapping[str, Any] | None) -> str:
  if accuracy is None:
    return '-'
  low, high = accuracy['interval']
  return f'{accuracy["accuracy"]:.3f} [{low:.3f}, {high:.3f}]'


def _at(name: str, values: Mapping[str, float] | None) -> str:
  """`maj@8 0.512` of the largest k; '-' where there is no such figure."""
  if values is None:
    return f'{name} -'
  k = max(values, key=int)
  return f'{name}@{k} {values[k]:.3f}'


def _sampled(found: Mapping[str, Any] | None) -> str:
  if not found:
    return '-'
  return f'{_at("pass", found["pass_at"])}, {_at("maj", found["maj_at"])}'


def _failed(row: Mapping[str, Any]) -> str:
  """Timeouts and grader errors of an iteration: samples and evaluations."""
  counts = [row, *row['accuracy'].values()]
  counts += [a['sampled'] for a in row['accuracy'].values() if a.get('sampled')]
  return ' / '.join(
    str(sum(c.get(name, 0) for c in counts))
    for name in ('num_timeouts', 'num_grader_errors')
  )


def print_table(directory: epath.Path, task: str) -> None:
  """Prints iteration, accuracy, validation reward, coverage, examples.

  Also timeouts and grader errors, and where there are samples of an
  evaluation, pass@k and maj@k of the largest k.
  """
  found = rows(directory)
  tests = sorted({k for row in found for k in row['accuracy']})
  tests = [k for k in tests if k.endswith('/test')]
  tests.sort(key=lambda k: k != f'{task}/test')
  table = rich_table.Table(title=str(directory))
  names = ['iteration', f'{task} test accuracy [95 %]', 'validation reward']
  names += ['coverage', 'examples', 'minutes', 'timeouts / grader errors']
  many = any(
    a.get('sampled') for row in found for a in row['accuracy'].values()
  )
  names += ['sampled'] * many
  for name in names + [k.removesuffix('/test') for k in tests[1:]]:
    table.add_column(name, justify='right', overflow='fold')
  for row in found:
    validation = row['accuracy'].get(f'{task}/validation', {}).get('accuracy')
    coverage = row.get('coverage')
    tested = row['accuracy'].get(tests[0] if tests else '')
    table.add_row(
      str(row['iteration']) if row['iteration'] else '0 (base)',
      _percent(tested),
      '-' if validation is None else f'{validation:.3f}',
      '-' if coverage is None else f'{coverage:.3f}',
      str(row.get('num_kept', '-')),
      f'{sum(row["seconds"].values()) / 60:.1f}',
      _failed(row),
      *[_sampled((tested or {}).get('sampled'))] * many,
      *(_percent(row['accuracy'].get(k)) for k in tests[1:]),
    )
  _print(table)


def _print(table: rich_table.Table) -> None:
  """To stdout; wide enough for its rows where stdout is no terminal."""
  if not multihost.is_first():
    return
  width = None if sys.stdout.isatty() else 160
  rich_console.Console(file=sys.stdout, width=width).print(table)


def print_reports(title: str, reports: Mapping[str, EvalReport]) -> None:
  """Prints the accuracy of one policy, a row per task and split."""
  table = rich_table.Table(title=title)
  names = ['task', 'accuracy [95 %]', 'right', 'problems', 'reasons']
  names.append('timeouts / grader errors')
  many = any(r.sampled for r in reports.values())
  for name in names + ['sampled'] * many:
    table.add_column(name, overflow='fold')
  for name, report in reports.items():
    low, high = report.interval
    sampled = dataclasses.asdict(report.sampled) if report.sampled else None
    row = {'accuracy': {name: dataclasses.asdict(report)}}
    table.add_row(
      name,
      f'{report.accuracy:.3f} [{low:.3f}, {high:.3f}]',
      str(report.num_correct),
      str(report.num_problems),
      ', '.join(f'{k} {v}' for k, v in report.reasons.items()),
      _failed(row),
      *[_sampled(sampled)] * many,
    )
  _print(table)
