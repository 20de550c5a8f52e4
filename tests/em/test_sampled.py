"""Votes and pass@k over verdicts of real graders."""

import pytest

from restem_jax.em import sampled
from restem_jax.em.sampled import SampledEvaluation
from restem_jax.records import GRADER_ERROR, Problem
from restem_jax.rewards import base, code, extraction, math, programs

SEVEN = Problem(id='p', question='', answer='\\frac{7}{2}')


@pytest.fixture(scope='module')
def grader():
  with math.MathGrader(extract=extraction.first_line) as grader:
    yield grader


def graded(grader, problem, texts):
  return list(grader.grade((problem, text) for text in texts))


def test_equivalent_answers_vote_together(grader):
  # Three spellings of the right answer outvote twice the same wrong one.
  texts = ['4', '3.5', '4', '7/2', '3\\frac12']
  verdicts = graded(grader, SEVEN, texts)
  found = sampled.tally(
    verdicts, SampledEvaluation(num_samples=5, ks=(1, 3, 5)), grader
  )
  assert found.maj_at == {1: False, 3: False, 5: True}
  assert found.pass_at == pytest.approx({1: 0.6, 3: 1.0, 5: 1.0})
  assert found.reasons == {'correct': 3, 'wrong': 2}


def test_algebra_decides_where_strings_and_numbers_do_not(grader):
  problem = Problem(id='p', question='', answer='x^2-1')
  texts = ['x^2', '(x+1)(x-1)', 'x^2', '(x-1)(x+1)', '-(1-x^2)']
  verdicts = graded(grader, problem, texts)
  config = SampledEvaluation(num_samples=5, ks=(4, 5))
  # At 4 two against two: x^2 was seen first.
  assert sampled.tally(verdicts, config, grader).maj_at == {4: False, 5: True}


def test_samples_without_an_answer_abstain(grader):
  verdicts = [base.verdict('truncated'), base.verdict('no_answer')] * 2
  verdicts += graded(grader, SEVEN, ['3.5'])
  config = SampledEvaluation(num_samples=5, ks=(4, 5))
  assert sampled.tally(verdicts, config, grader).maj_at == {4: False, 5: True}


def test_the_gold_answer_has_no_part_in_the_vote(grader):
  # To the gold 50% both 50 and 0.5 are right, but not the same answer.
  problem = Problem(id='p', question='', answer='50\\%')
  verdicts = graded(grader, problem, ['50', '50', '7', '7', '7', '0.5', '0.5'])
  config = SampledEvaluation(num_samples=7, ks=(7,))
  assert [v.reason for v in verdicts].count('correct') == 4
  assert sampled.tally(verdicts, config, grader).maj_at == {7: False}


def test_programs_have_no_vote():
  grader = code.CodeGrader(extract=programs.raw, slots=1)
  try:
    tests = [{'stdin': '', 'stdout': '1'}]
    problem = Problem(
      id='p', question='', answer='', meta={'kind': 'stdio', 'tests': tests}
    )
    verdicts = graded(grader, problem, ['print(1)', 'print(2)'])
    config = SampledEvaluation(num_samples=2)
    found = sampled.tally(verdicts, config, grader)
    left_out = sampled.tally([], config, grader)
  finally:
    grader.close()
  assert found.maj_at is None
  report = sampled.report([found, left_out], config)
  assert report.maj_at is None  # not 0
  assert report.pass_at == {'1': 0.25, '2': 0.5}
  assert report.reasons == {'correct': 1, 'left_out': 2, 'wrong': 1}


def test_report_is_the_mean_over_problems(grader):
  config = SampledEvaluation(num_samples=3, ks=(1, 3))
  failed = base.verdict('error', '9', failure='the worker died twice')
  right = base.verdict('correct', '1')
  rows = [
    [right, base.verdict('timeout', '2'), failed],
    [base.verdict('wrong', '3'), base.verdict('wrong', '3'), right],
    [],  # its prompt is too long
  ]
  report = sampled.report(
    (sampled.tally(row, config, grader) for row in rows), config
  )
  assert report.pass_at == pytest.approx({'1': 2 / 9, '3': 2 / 3})
  assert report.maj_at == pytest.approx({'1': 1 / 3, '3': 1 / 3})
  assert report.reasons == {
    'correct': 2, GRADER_ERROR: 1, 'left_out': 3, 'timeout': 1, 'wrong': 2
  }  # fmt: skip
  assert (report.num_timeouts, report.num_grader_errors) == (1, 1)
  assert (report.num_samples, report.temperature, report.top_p) == (
    3,
    1.0,
    0.95,
  )


def test_default_ks_and_folder():
  assert SampledEvaluation(num_samples=1).all_ks == [1]
  assert SampledEvaluation(num_samples=6).all_ks == [1, 2, 4, 6]
  assert SampledEvaluation(num_samples=8, ks=[8, 1, 8]).all_ks == [1, 8]
  folders = {
    SampledEvaluation().folder,
    SampledEvaluation(num_samples=4).folder,
    SampledEvaluation(temperature=0.7).folder,
    SampledEvaluation(top_k=40).folder,
    SampledEvaluation(top_p=1.0).folder,
  }
  assert len(folders) == 5


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'num_samples': -1}, 'write 0'),
    ({'num_samples': 4, 'ks': (5,)}, 'from 1 to'),
    ({'num_samples': 4, 'ks': (0,)}, 'from 1 to'),
    ({'temperature': 0.0}, 'same sample'),
    ({'top_p': 0.0}, 'top_p'),
  ],
)
def test_mistakes_are_told(changes, message):
  with pytest.raises(ValueError, match=message):
    SampledEvaluation(**changes)
