#!/usr/bin/env python3
"""How fast answers are graded: one JSON line per figure.

  python tools/bench_rewards.py [--figures=answers_per_s,...] [--seed=0]

Figures (wall time unless said; start-up of the workers is left out):
  answers_per_s            a MATH-like stream of sampled solutions
  answers_per_s_hostile    the same with 0.5 % of the answers hostile
  answers_per_cpu_s        answers per second of CPU time, host and workers:
  answers_per_cpu_s_hostile  on a machine with other load, twice this is the
                           rate that two idle cores would give
  programs_per_s, ...      of code rewards: see bench_programs.py
  overlap, overlap_hidden  of scoring beside sampling: see bench_overlap.py

The stream is made here, by seed: 1000 problems times 20 samples of about
1.2 kB, golds 62 % integers, 12 % fractions, the rest decimals, radicals,
polynomials, tuples, intervals, sets, angles, words and matrices.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
import json
import os
import pathlib
import platform
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import bench_overlap
import bench_programs

from restem_jax.records import Problem
from restem_jax.rewards import math as math_lib

NUM_PROBLEMS = 1000
NUM_SAMPLES = 20
HOSTILE_RATE = 0.005

_PROSE = (
  'We substitute the second equation into the first and collect the terms in '
  '$x$, which gives $2x + 3 = 7$ and therefore $x = 2$. '
)

# Golds by kind: a weight in per cent and what makes (gold, right spellings).
Spellings = list[str]


def _integer(r: random.Random) -> Spellings:
  n = r.choice([r.randint(-20, 99), r.randint(100, 99999)])
  grouped = f'{n:,}'.replace(',', '{,}')
  return [f'{n}', f'{n}', f'{n}', grouped, f'{n}.0', f'{n}\\text{{ units}}']


def _fraction(r: random.Random) -> Spellings:
  a, b = r.randint(1, 60), r.randint(2, 60)
  k = r.randint(2, 5)
  return [
    f'\\frac{{{a}}}{{{b}}}',
    f'\\dfrac{{{a}}}{{{b}}}',
    f'{a}/{b}',
    f'\\frac{{{k * a}}}{{{k * b}}}',
  ]


def _decimal(r: random.Random) -> Spellings:
  cents = r.randint(1, 9999)
  return [f'{cents / 100:.2f}', f'\\${cents / 100:.2f}', f'{cents / 100:.3f}']


def _radical(r: random.Random) -> Spellings:
  a, b = r.randint(2, 12), r.choice([2, 3, 5, 7])
  return [f'{a}\\sqrt{{{b}}}', f'{a}\\sqrt{b}', f'\\sqrt{{{a * a * b}}}']


def _polynomial(r: random.Random) -> Spellings:
  a, b = r.randint(1, 9), r.randint(1, 9)
  return [
    f'x^2+{a + b}x+{a * b}',
    f'x^{{2}} + {a + b}x + {a * b}',
    f'(x+{a})(x+{b})',
  ]


def _tuple(r: random.Random) -> Spellings:
  a, b = r.randint(-9, 9), r.randint(2, 9)
  return [f'({a},\\frac{{1}}{{{b}}})', f'\\left({a}, \\frac1{b}\\right)']


def _interval(r: random.Random) -> Spellings:
  a = r.randint(-9, 9)
  return [f'({a},\\infty)', f'({a}, +\\infty)', f'x > {a}']


def _set(r: random.Random) -> Spellings:
  a, b = r.randint(1, 9), r.randint(10, 19)
  return [f'{a},{b}', f'{b}, {a}', f'\\{{{a}, {b}\\}}']


def _angle(r: random.Random) -> Spellings:
  a, b = r.randint(1, 11), r.choice([3, 4, 6, 12])
  return [f'\\frac{{{a}\\pi}}{{{b}}}', f'\\frac{{{a}}}{{{b}}}\\pi']


def _word(r: random.Random) -> Spellings:
  word = r.choice(['even', 'odd', 'Monday', 'no solution', 'isosceles'])
  return [f'\\text{{{word}}}', word]


def _matrix(r: random.Random) -> Spellings:
  a, b = r.randint(-9, 9), r.randint(-9, 9)
  rows = f'{a} & 1 \\\\ 0 & {b}'
  return [
    f'\\begin{{pmatrix}} {rows} \\end{{pmatrix}}',
    f'\\begin{{bmatrix}}{rows}\\end{{bmatrix}}',
  ]


_MIX: tuple[tuple[int, Callable[[random.Random], Spellings]], ...] = (
  (62, _integer), (12, _fraction), (4, _decimal), (5, _radical),
  (5, _polynomial), (3, _tuple), (2, _interval), (2, _set), (2, _angle),
  (2, _word), (1, _matrix),
)  # fmt: skip


def _hostile(r: random.Random) -> str:
  """One of 12 forms; the first uses up its limit, most are refused."""
  n = r.randint(100, 999)
  return r.choice(
    [
      f'\\sum_{{k=0}}^{{{n}}}\\binom{{{n}}}{{k}}x^{{k}}',
      f'(x+1)^{{{n}}}',
      f'9^{{9^{{9^{{{n}}}}}}}',
      f'({n}^9)!',
      f'{n}0000!',
      f'\\sin(10^{{10^{{{n}}}}})',
      f'x^{{x^{{x^{{x^{{{n}}}}}}}}}',
      '(' * 100 + str(n) + ')' * 100,
      f'().__class__.__base__.__subclasses__()[{n}]',
      '9' * 200 + str(n),
      '2^' * 100 + str(n),
      f'(\\sqrt{{2}}+\\sqrt{{3}}+\\sqrt{{5}}+\\sqrt{{{n}}})^{{20}}',
    ]
  )


def _stream(seed: int, *, hostile: bool) -> list[tuple[Problem, str]]:
  """NUM_PROBLEMS * NUM_SAMPLES (problem, solution text), by seed."""
  draw = random.Random(seed)
  weights = [w for w, _ in _MIX]
  pairs = []
  for i in range(NUM_PROBLEMS):
    ((_, kind),) = draw.choices(_MIX, weights)
    right = kind(draw)
    # Wrong answers of a policy repeat: a few per problem.
    wrong = [kind(draw)[0] for _ in range(4)]
    problem = Problem(id=f'bench/{i}', question='', answer=right[0])
    for _ in range(NUM_SAMPLES):
      answer = draw.choice(right if draw.random() < 0.5 else wrong)
      if hostile and draw.random() < HOSTILE_RATE:
        answer = _hostile(draw)
      text = _PROSE * 8 + f'The answer is $\\boxed{{{answer}}}$.'
      pairs.append((problem, text))
  return pairs


def _cpu_s() -> float:
  t = os.times()
  return t.user + t.system + t.children_user + t.children_system


def _grader() -> math_lib.MathGrader:
  grader = math_lib.MathGrader()
  assert grader.equivalent('\\sqrt{8}', '2\\sqrt{2}')  # starts the workers
  return grader


def _answers(seed: int, *, hostile: bool) -> Iterator[Mapping[str, object]]:
  suffix = '_hostile' if hostile else ''
  pairs = _stream(seed, hostile=hostile)
  before = _cpu_s()
  _grader().close()
  start_up = _cpu_s() - before
  before = _cpu_s()
  grader = _grader()
  start = time.perf_counter()
  reasons: dict[str, int] = {}
  longest = 0.0
  last = start
  for verdict in grader.grade(pairs):
    now = time.perf_counter()
    longest, last = max(longest, now - last), now
    reasons[verdict.reason] = reasons.get(verdict.reason, 0) + 1
  wall = time.perf_counter() - start
  grader.close()
  cpu = _cpu_s() - before - start_up
  workload = (
    f'{len(pairs)} answers, {NUM_PROBLEMS} problems x {NUM_SAMPLES}, seed '
    f'{seed}; {json.dumps(reasons)}; longest gap {longest:.2f} s'
  )
  yield _line(f'answers_per_s{suffix}', len(pairs) / wall, workload)
  yield _line(f'answers_per_cpu_s{suffix}', len(pairs) / cpu, workload)


def _line(figure: str, value: float, workload: str) -> Mapping[str, object]:
  return {
    'figure': figure,
    'value': round(value, 1),
    'unit': 'answers/s' if '_cpu_' not in figure else 'answers/CPU s',
    'workload': workload,
    'machine': f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores, '
    f'load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}',
  }


_RUNS: tuple[tuple[tuple[str, ...], Callable[[int], Iterator]], ...] = (
  (
    ('answers_per_s', 'answers_per_cpu_s'),
    lambda seed: _answers(seed, hostile=False),
  ),
  (
    ('answers_per_s_hostile', 'answers_per_cpu_s_hostile'),
    lambda seed: _answers(seed, hostile=True),
  ),
  *(
    (names, lambda _, run=run: run())
    for names, run in (*bench_programs.RUNS, *bench_overlap.RUNS)
  ),
)


def main() -> None:
  """Parses the flags, runs, prints."""
  known = [name for names, _ in _RUNS for name in names]
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('--figures', default=','.join(known))
  parser.add_argument('--seed', type=int, default=0)
  flags = parser.parse_args()
  wanted = flags.figures.split(',')
  unknown = sorted(set(wanted) - set(known))
  if unknown:
    parser.error(
      f'--figures: no {unknown[0]!r}; choose from {", ".join(known)}'
    )
  for names, run in _RUNS:
    if set(names) & set(wanted):
      for line in run(flags.seed):
        if line['figure'] in wanted:
          print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
