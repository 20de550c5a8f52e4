import dataclasses
import json

import pytest

from restem_jax.em import evaluate, generate, score, statistics
from restem_jax.em.generate import Sampler
from restem_jax.em.sampled import SampledEvaluation
from restem_jax.rewards import base
from restem_jax.rewards.math import MathGrader


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


def test_what_the_grader_could_not_judge_is_shown():
  verdicts = [
    base.verdict('error'),
    base.verdict('timeout'),
    base.verdict('error', failure='infra: the server has ended'),
  ]
  report = evaluate.report('t', 'test', verdicts, 3)
  assert report.reasons == {'error': 1, 'grader_error': 1, 'timeout': 1}
  assert (report.num_timeouts, report.num_grader_errors) == (1, 1)


def test_a_problem_without_a_verdict_counts_wrong():
  report = evaluate.report('t', 'test', [base.verdict('correct')], 4)
  assert report.accuracy == 0.25
  assert report.reasons == {'correct': 1, 'left_out': 3}
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


def test_grader_errors_are_graded_again(directory, sampler, params):
  """A remote engine that is down leaves a report that is not the last word."""

  class Down:
    votes = False

    def grade(self, pairs):
      for _ in pairs:
        yield base.verdict('error', failure='infra: connection refused')

  config = SampledEvaluation(num_samples=8)
  right = run(directory / 'right', sampler, lambda: params, sampled=config)
  down = Sampler(
    dataclasses.replace(sampler.task, grader=Down()),
    sampler.model,
    sampler.tokenizer,
    sampler.sampling,
  )
  down.__dict__.update(_engine=sampler._engine, _prompts=sampler._prompts)
  down.task.__dict__['_problems'] = sampler.task._problems
  path = directory / 'wrong'
  (report,) = run(path, down, lambda: params, sampled=config).values()
  assert report.sampled is not None
  failed = report.sampled.num_grader_errors
  assert failed == report.sampled.reasons['grader_error'] > 0

  def never():
    raise AssertionError('nothing is sampled again')

  assert run(path, sampler, never, sampled=config) == right
  for pattern in ('*.json*', '*/*.json*'):
    for file in (directory / 'right').glob(pattern):
      again = path / file.relative_to(directory / 'right')
      assert again.read_bytes() == file.read_bytes()


def test_by_task_where_problems_name_several(directory, sampler, params):
  problems = sampler.task.problems('test')
  problems = [
    dataclasses.replace(p, task=f'task {i % 2}') for i, p in enumerate(problems)
  ]
  ids = [p.id for p in problems]
  assert evaluate._by_task('all', problems) == {
    'all': ids,
    'task 0': ids[::2],
    'task 1': ids[1::2],
  }


def test_too_long_prompts_count_wrong(directory, sampler, problem_task):
  task = dataclasses.replace(problem_task, max_prompt_len=1)
  short = Sampler(task, sampler.model, sampler.tokenizer, sampler.sampling)
  short.__dict__['_engine'] = sampler._engine
  (report,) = run(directory, short, lambda: {}).values()
  assert report.accuracy == 0 and report.reasons == {'left_out': 6}
  rows = json.loads((directory / 'report.json').read_text())
  assert list(rows) == ['digits']
  assert generate.shard_path(directory, 'samples', 1).exists()


def test_sampled_evaluation(directory, sampler, params):
  greedy = run(directory, sampler, lambda: params)['digits']
  assert greedy.sampled is None
  config = SampledEvaluation(num_samples=8, ks=(1, 8))
  # The report is completed; the greedy samples are not drawn again.
  path = generate.shard_path(directory, 'samples', 0)
  before = path.stat().mtime
  report = run(directory, sampler, lambda: params, sampled=config)['digits']
  assert path.stat().mtime == before
  assert dataclasses.replace(report, sampled=None) == greedy
  rows = list(score.read_scored(directory / config.folder, 2))
  assert len(rows) == 6 * 8
  right: dict[str, list[bool]] = {}
  votes: dict[str, dict[str, int]] = {}
  gold = {p.id: p.answer for p in sampler.task.problems('test')}
  for s in rows:
    right.setdefault(s.sample.problem_id, []).append(s.verdict.reward == 1)
    counts = votes.setdefault(s.sample.problem_id, {})
    if s.verdict.answer:
      counts[s.verdict.answer] = counts.get(s.verdict.answer, 0) + 1
  assert report.sampled is not None and report.sampled.maj_at is not None
  assert report.sampled.pass_at == pytest.approx(
    {
      '1': sum(map(sum, right.values())) / 48,
      '8': sum(map(any, right.values())) / 6,
    }
  )
  assert 0 < report.sampled.pass_at['1'] < report.sampled.pass_at['8']
  # This model's answers are single digits: their strings vote.
  won = [
    bool(c) and max(c, key=lambda a, c=c: c[a]) == gold[i]
    for i, c in votes.items()
  ]
  assert report.sampled.maj_at['8'] == pytest.approx(sum(won) / 6)
  assert sum(report.sampled.reasons.values()) == 48

  def never():
    raise AssertionError('the parameters are not needed')

  assert run(directory, sampler, never, sampled=config)['digits'] == report
  # What is not asked for stays; a split that is not named has none.
  assert run(directory, sampler, never)['digits'] == report
  other = dataclasses.replace(config, splits=('validation',))
  assert run(directory, sampler, never, sampled=other)['digits'] == report


def test_validation_tells_what_the_grader_could_not_judge(
  sampler, params, problem_task, caplog
):
  class Broken(MathGrader):
    def _judge(self, a, b):
      return 'error: the worker died twice'

  class Ended(Sampler):
    """None of its samples was cut at the length limit."""

    def sample(self, *args, **kwargs):
      for s in super().sample(*args, **kwargs):
        yield dataclasses.replace(s, finish='stop')

  grader = Broken(extract=lambda text: '3', symbolic=False)
  task = dataclasses.replace(problem_task, grader=grader)
  broken = Ended(task, sampler.model, sampler.tokenizer, sampler.sampling)
  broken.__dict__['_engine'] = sampler._engine
  problems = task.problems('test')
  assert evaluate.reward(params, problems, broken, seed=0, iteration=0) == 0
  assert 'the grader failed on 6 of 6 answers' in caplog.text
  assert 'the worker died twice' in caplog.text
