import dataclasses
import json

import pytest

from restem_jax import shards
from restem_jax.data import jsonl
from restem_jax.data.prompts import PromptTemplate
from restem_jax.em import generate
from restem_jax.em.generate import Sampler, Sampling
from restem_jax.records import from_dict, Sample
from restem_jax.sampling.policies import GREEDY


def run(directory, sampler, params_fn, problems, policy=None, **more):
  generate.generate(
    directory,
    problems,
    sampler,
    params_fn,
    policy or sampler.sampling.policy,
    num_samples=4,
    seed=0,
    iteration=1,
    what='test',
    **more,
  )


def read(directory):
  paths = sorted(directory.glob('samples-*.jsonl'))
  return [
    [from_dict(Sample, row) for row in shards.read_shard(p)] for p in paths
  ]


def contents(directory):
  return {p.name: p.read_bytes() for p in directory.iterdir()}


def never():
  raise AssertionError('the parameters are not needed')


@pytest.fixture(scope='module')
def problems(problem_task):
  return problem_task.problems('train')


def test_shards(directory, sampler, params, problems):
  written = []
  run(directory, sampler, lambda: params, problems, written=written.append)
  found = read(directory)
  assert [len(rows) for rows in found] == [3 * 4] * 4  # 12 problems by 3
  assert sorted(written) == [0, 1, 2, 3]
  samples = [s for rows in found for s in rows]
  expected = [(p.id, i) for p in problems for i in range(4)]
  assert [(s.problem_id, s.index) for s in samples] == expected
  for s in samples:
    assert (s.iteration, s.seed) == (1, 0)
    assert len(s.logprobs) == len(s.token_ids) <= 6
    assert '\n' not in s.text  # trimmed at the stop
    assert s.text == sampler.tokenizer.decode(s.token_ids).partition('\n')[0]
  assert len({s.text for s in samples}) > 6
  assert {s.finish for s in samples} == {'eos', 'stop', 'length'}
  # Complete: nothing is sampled, and the model need not be loaded.
  before = contents(directory)
  run(directory, sampler, never, problems)
  assert contents(directory) == before


@pytest.mark.parametrize('damage', ['flip', 'cut', 'gone', 'no marker'])
def test_only_what_is_missing_is_sampled(
  directory, sampler, params, problems, damage, caplog
):
  run(directory, sampler, lambda: params, problems)
  before = contents(directory)
  path = generate.shard_path(directory, 'samples', 2)
  good = path.read_bytes()
  if damage == 'flip':
    path.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
  elif damage == 'cut':
    path.write_bytes(good[: len(good) // 2])
  elif damage == 'gone':
    path.unlink()
  else:
    (directory / f'{path.name}.done').unlink()
  (directory / f'{path.name}.tmp-ab').write_bytes(good[:9])
  written = []
  run(directory, sampler, lambda: params, problems, written=written.append)
  assert written == [2]
  assert contents(directory) == before
  named = f'{path} is damaged' in caplog.text
  assert named == (damage in ('flip', 'cut'))


def test_samples_do_not_depend_on_the_shards(
  directory, sampler, params, problems
):
  run(directory / 'a', sampler, lambda: params, problems)
  other = dataclasses.replace(sampler.sampling, problems_per_shard=5)
  other = Sampler(sampler.task, sampler.model, sampler.tokenizer, other)
  other.__dict__['_engine'] = sampler._engine  # already compiled
  run(directory / 'b', other, lambda: params, problems[::-1])
  key = lambda s: (s.problem_id, s.index)
  a, b = (
    sorted((s for rows in read(directory / d) for s in rows), key=key)
    for d in 'ab'
  )
  for one, same in zip(a, b, strict=True):
    assert one.token_ids == same.token_ids
    assert one.logprobs == pytest.approx(same.logprobs, abs=1e-4)


def test_greedy_samples_are_all_the_same(directory, sampler, params, problems):
  run(directory, sampler, lambda: params, problems[:2], GREEDY)
  (rows,) = read(directory)
  for start in (0, 4):
    assert len({s.token_ids for s in rows[start : start + 4]}) == 1


def test_too_long_prompts_have_no_samples(directory, problem_task, sampler):
  task = dataclasses.replace(
    problem_task,
    max_prompt_len=1,
    prompt=PromptTemplate(),
  )
  short = Sampler(task, sampler.model, sampler.tokenizer, sampler.sampling)
  problems = task.problems('test')
  assert short.prompt_ids(problems) == {}
  engine = sampler._engine
  short.__dict__['_engine'] = engine
  run(directory, short, lambda: {}, problems)
  assert read(directory) == [[], []]


def test_prefixes():
  assert generate._common_prefix([(1, 2, 3), (1, 2, 4), (1, 2, 3, 5)]) == 2
  # The last token of a prompt is the slots' own.
  assert generate._common_prefix([(1, 2), (1, 2)]) == 1
  assert generate._common_prefix([(1, 2), (1, 2, 3)]) == 1
  assert generate._common_prefix([(1, 2), (2, 2)]) == 0


def test_a_truncated_prompt_leaves_the_others_their_prefix(
  tmp_path, problem_task, sampler
):
  questions = ['Is 1 odd?', 'Is 2 odd?', 'Is 3 odd, ' + 'or is it even, ' * 9]
  rows = [{'id': q, 'question': q, 'answer': '1'} for q in questions]
  path = tmp_path / 'train.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))

  def prefixes(max_prompt_len):
    task = dataclasses.replace(
      problem_task,
      source=jsonl.JsonlSource(tmp_path, name='odd'),
      prompt=PromptTemplate(),
      max_prompt_len=max_prompt_len,
      long_prompts='truncate',
    )
    made = Sampler(task, sampler.model, sampler.tokenizer, sampler.sampling)
    return max(map(len, made._prompts.values())), made._prefixes

  longest, whole = prefixes(1000)
  assert whole != []
  assert prefixes(longest - 1) == (longest - 1, whole)


def test_chunks():
  assert generate.chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
  assert generate.chunks([], 2) == []


@pytest.mark.parametrize('field', ['num_samples', 'problems_per_shard'])
def test_refused(field):
  with pytest.raises(ValueError, match=f'Sampling.{field}=0; write 1 or more'):
    Sampling(**{field: 0})


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('kv_dtype', 'int4', 'one of auto, float32, bfloat16, int8'),
    ('attention', 'splash', 'one of xla, cudnn'),
    ('decode_attention', 'cudnn', 'one of auto, xla, triton'),
  ],
)
def test_refused_choices(field, value, words):
  with pytest.raises(ValueError, match=f"Sampling.{field}='{value}'.*{words}"):
    Sampling(**{field: value})


def test_attention_that_the_platform_lacks(sampler):
  sampling = dataclasses.replace(sampler.sampling, attention='cudnn')
  with pytest.raises(ValueError, match=r'^Sampling\.attention.*not on a cpu'):
    Sampler(sampler.task, sampler.model, sampler.tokenizer, sampling)
