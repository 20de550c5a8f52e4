#!/usr/bin/env python3
"""How fast programs are judged: one JSON line per figure.

  python tools/bench_programs.py [--figures=programs_per_s,...] [--tier=1]

Figures (of `CodeGrader` with a slot per core; start-up is left out):
  programs_per_s             trivial programs, one stdio test each; wall time
  programs_per_cpu_s         the same per second of CPU time, host and all
                             sandbox processes: on a machine with other load,
                             twice this is the rate of two idle cores
  programs_per_s_assert      three asserts on a trivial function each
  programs_per_cpu_s_assert

`bench_rewards.py` prints them too, beside the answers.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
import json
import os
import pathlib
import platform
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from restem_jax.records import Problem
from restem_jax.rewards import code, programs
from restem_jax.rewards.sandbox import jail
from restem_jax.rewards.sandbox.host import SandboxPool

NUM_PROGRAMS = 2000
NUM_SAMPLES = 64  # per problem, as in the paper's code run

_STDIO = {
  'kind': 'stdio',
  'tests': [{'stdin': '1 2\n', 'stdout': '3\n'}],
}
_ASSERT = {
  'kind': 'assert',
  'tests': [
    'assert add(1, 2) == 3',
    'assert add(-1, 1) == 0',
    'assert add(10**20, 1) == 10**20 + 1',
  ],
}


def _pairs(meta: Mapping[str, object]) -> Iterator[tuple[Problem, str]]:
  """Right programs, no two of them equal (equal ones would run once)."""
  for n in range(NUM_PROGRAMS):
    problem = Problem(
      id=f'bench/{n // NUM_SAMPLES}', question='', answer='', meta=meta
    )
    if meta is _STDIO:
      yield problem, f'a, b = map(int, input().split())\nprint(a + b)  # {n}'
    else:
      yield problem, f'def add(a, b):\n  return a + b  # {n}'


def _cpu_s() -> float:
  t = os.times()
  return t.user + t.system + t.children_user + t.children_system


def _start(tiers: tuple[int, ...]) -> tuple[SandboxPool, code.CodeGrader]:
  pool = SandboxPool(tiers=tiers)
  grader = code.CodeGrader(engine=pool, extract=programs.raw)
  # One program for each slot, long enough to start them all.
  warm = Problem(id='warm', question='', answer='', meta=_STDIO)
  slow = [f'import time\ntime.sleep(1)  # {n}' for n in range(pool.concurrency)]
  list(grader.grade((warm, program) for program in slow))
  return pool, grader


def run(
  meta: Mapping[str, object], suffix: str, tiers: tuple[int, ...]
) -> Iterator[Mapping[str, object]]:
  """Judges the programs; yields the figures on wall and CPU time."""
  before = _cpu_s()
  pool, grader = _start(tiers)
  grader.close()
  pool.close()
  start_up = _cpu_s() - before
  before = _cpu_s()
  pool, grader = _start(tiers)
  start = time.perf_counter()
  reasons: dict[str, int] = {}
  for verdict in grader.grade(_pairs(meta)):
    reasons[verdict.reason] = reasons.get(verdict.reason, 0) + 1
  wall = time.perf_counter() - start
  grader.close()
  pool.close()
  cpu = _cpu_s() - before - start_up
  assert reasons == {'correct': NUM_PROGRAMS}, reasons
  workload = (
    f'{NUM_PROGRAMS} {meta["kind"]} programs, {NUM_SAMPLES} per problem, '
    f'{pool.concurrency} slots, tier {pool.describe()["tier"]}'
  )
  yield _line(f'programs_per_s{suffix}', NUM_PROGRAMS / wall, workload)
  yield _line(f'programs_per_cpu_s{suffix}', NUM_PROGRAMS / cpu, workload)


def _line(figure: str, value: float, workload: str) -> Mapping[str, object]:
  return {
    'figure': figure,
    'value': round(value, 1),
    'unit': 'programs/CPU s' if '_cpu_' in figure else 'programs/s',
    'workload': workload,
    'machine': f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores, '
    f'load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}',
  }


Run = Callable[..., Iterator[Mapping[str, object]]]
RUNS: tuple[tuple[tuple[str, ...], Run], ...] = (
  (
    ('programs_per_s', 'programs_per_cpu_s'),
    lambda tiers=jail.TIERS: run(_STDIO, '', tiers),
  ),
  (
    ('programs_per_s_assert', 'programs_per_cpu_s_assert'),
    lambda tiers=jail.TIERS: run(_ASSERT, '_assert', tiers),
  ),
)


def main() -> None:
  """Parses the flags, runs, prints."""
  known = [name for names, _ in RUNS for name in names]
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--figures', default=','.join(known))
  parser.add_argument('--tier', type=int, choices=jail.TIERS)
  flags = parser.parse_args()
  wanted = flags.figures.split(',')
  unknown = sorted(set(wanted) - set(known))
  if unknown:
    parser.error(
      f'--figures: no {unknown[0]!r}; choose from {", ".join(known)}'
    )
  tiers = (flags.tier,) if flags.tier else jail.TIERS
  for names, figures in RUNS:
    if set(names) & set(wanted):
      for line in figures(tiers):
        if line['figure'] in wanted:
          print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
