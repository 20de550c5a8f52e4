"""Tests of restem_jax.rewards.base."""

import subprocess
import sys

import pytest

from restem_jax.records import Problem, REASONS
from restem_jax.rewards import base
from restem_jax.rewards.math import MathGrader


def test_only_correct_is_rewarded():
  rewards = {r: base.verdict(r, '7').reward for r in REASONS}
  assert rewards.pop('correct') == 1.0
  assert set(rewards.values()) == {0.0}


def test_unknown_reason_is_a_bug():
  with pytest.raises(AssertionError):
    base.verdict('maybe')


def test_a_graders_failure_is_an_error_and_nothing_else():
  assert base.verdict('error', failure='infra').counted_as == 'grader_error'
  with pytest.raises(AssertionError):
    base.verdict('wrong', failure='infra')


def test_score_is_grade_of_one():
  grader = MathGrader(symbolic=False)
  problem = Problem(id='a', question='3+4', answer='7')
  verdict = base.score(grader, problem, r'so \boxed{7}')
  assert verdict == base.verdict('correct', '7')
  grader.close()


def test_package_needs_neither_jax_nor_sympy_in_the_host():
  code = (
    'import sys; from restem_jax.rewards import base, math, pool; '
    "bad = {'jax', 'sympy', 'math_verify', 'tensorflow'} & set(sys.modules); "
    'sys.exit(str(bad) if bad else 0)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=False,
    env={'PYTHONPATH': ':'.join(p for p in sys.path if p)},
  )
  assert done.returncode == 0, done.stderr
