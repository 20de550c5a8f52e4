import dataclasses
import json

import pytest

from restem_jax.em import evaluate, generate, score, statistics
from restem_jax.em.generate import Sampler
from restem_jax.rewards import base


def run(directory, sampler, params_fn, **more):
  return evaluate.evaluate(
    directory,
    'test',
    sampler.task.problems('test'),
    sampler,
    params_fn,
    seed=0,
    iteration=0,
    what='test',
    **more,
  )


def test_report():
  reasons = ['correct'] * 3 + ['wrong', 'truncated']
  report = evaluate.report('t', 'test', map(base.verdict, reasons), 5)
  assert (report.num_correct, report.num_problems) == (3, 5)
  assert report.accuracy == 0.6
  assert report.interval == statistics.wilson_interval(3, 5)
  assert report.reasons == {'correct': 3, 'truncated': 1, 'wrong': 1}


def test_a_problem_without_a_verdict_counts_wrong():
  report = evaluate.report('t', 'test', [base.verdict('correct')], 4)
  assert report.accuracy == 0.25
  assert report.reasons == {'correct': 1, 'error': 3}
  assert evaluate.report('t', 'test', [], 0).accuracy == 0.0


def test_greedy_accuracy(directory, sampler, params):
  (report,) = run(directory, sampler, lambda: params).values()
  assert (report.task, report.split) == ('digits', 'test')
  found = list(score.read_scored(directory, 2))
  assert [s.sample.problem_id for s in found] == [
    p.id for p in sampler.task.problems('test')
  ]
  answers = {p.id: p.answer for p in sampler.task.problems('test')}
  right = 0
  for s in found:
    text = s.sample.text.strip().rstrip('.')
    same = text == answers[s.sample.problem_id]
    right += same and s.sample.finish != 'length'
  assert report.num_correct == right
  assert sum(report.reasons.values()) == report.num_problems == 6
  assert evaluate.reward(
    params, sampler.task.problems('test'), sampler, seed=0, iteration=0
  ) == pytest.approx(report.accuracy)


def test_is_done_once(directory, sampler, params):
  first = run(directory, sampler, lambda: params)

  def never():
    raise AssertionError('the parameters are not needed')

  assert run(directory, sampler, never) == first
  # Without the report, what was sampled is still used.
  text = (directory / 'report.json').read_text()
  (directory / 'report.json').unlink()
  (directory / 'report.json.tmp-9').write_text('half')
  assert run(directory, sampler, never) == first
  assert (directory / 'report.json').read_text() == text
  assert not list(directory.glob('*.tmp-*'))


def test_by_task_where_problems_name_several(directory, sampler, params):
  problems = sampler.task.problems('test')
  problems = [
    dataclasses.replace(p, task=f'task {i % 2}') for i, p in enumerate(problems)
  ]
  verdicts = {p.id: base.verdict('correct') for p in problems[::2]}
  verdicts |= {p.id: base.verdict('wrong') for p in problems[1::2]}
  reports = evaluate._by_task('all', 'test', problems, verdicts)
  assert {name: r.accuracy for name, r in reports.items()} == {
    'all': 0.5,
    'task 0': 1.0,
    'task 1': 0.0,
  }
  assert [r.num_problems for r in reports.values()] == [6, 3, 3]


def test_too_long_prompts_count_wrong(directory, sampler, problem_task):
  task = dataclasses.replace(problem_task, max_prompt_len=1)
  short = Sampler(task, sampler.model, sampler.tokenizer, sampler.sampling)
  short.__dict__['_engine'] = sampler._engine
  (report,) = run(directory, short, lambda: {}).values()
  assert report.accuracy == 0 and report.reasons == {'error': 6}
  rows = json.loads((directory / 'report.json').read_text())
  assert list(rows) == ['digits']
  assert generate.shard_path(directory, 'samples', 1).exists()
