from collections import Counter
import json

from hypothesis import given, strategies as st
import pytest

from restem_jax import shards
from restem_jax.data.examples import read_examples
from restem_jax.em import select
from restem_jax.em.select import choose, Selection
from restem_jax.records import Sample, Scored
from restem_jax.rewards import base


def scored(problem, index, text='', reason='correct'):
  sample = Sample(
    problem_id=problem,
    index=index,
    iteration=1,
    seed=0,
    text=text or f'solution {index}',
    token_ids=(index + 5, 7),
    logprobs=(0.0, 0.0),
    finish='length' if reason == 'truncated' else 'stop',
  )
  return Scored(sample=sample, verdict=base.verdict(reason))


def indices(kept):
  return {problem: [s.index for s in found] for problem, found in kept.items()}


def test_keeps_what_is_right():
  rows = [
    scored('a', 0),
    scored('a', 1, reason='wrong'),
    scored('b', 0, reason='truncated'),
    scored('b', 1, reason='no_answer'),
    scored('c', 1),
  ]
  kept, dropped, totals = choose(rows, Selection(), 1)
  assert indices(kept) == {'a': [0], 'c': [1]}
  assert +dropped == Counter(wrong=1, truncated=1, no_answer=1)
  assert totals == Counter(samples=5, right=2, problems=3, solved=2)


def test_what_the_grader_could_not_judge_is_counted_apart(directory):
  rows = [scored('a', 0, reason='error'), scored('a', 1, reason='timeout')]
  failed = base.verdict('error', failure='infra: the server has ended')
  rows.append(Scored(sample=rows[0].sample, verdict=failed))
  found = select.select(directory, rows, {}, Selection(), 1)
  assert found.dropped == {'error': 1, 'grader_error': 1, 'timeout': 1}
  written = json.loads((directory / 'select.json').read_text())
  assert (written['num_timeouts'], written['num_grader_errors']) == (1, 1)


def test_one_of_equal_texts_stays():
  rows = [
    scored('a', 2, ' 1 + 1\n= 2 '),
    scored('a', 0, '1 + 1 = 2'),
    scored('a', 1, '1+1 = 2'),
    scored('b', 0, '1 + 1 = 2'),  # of another problem: no duplicate
  ]
  kept, dropped, _ = choose(rows, Selection(), 1)
  assert indices(kept) == {'a': [0, 1], 'b': [0]}
  assert dropped['duplicate'] == 1


def test_the_cap_is_drawn_by_seed_iteration_and_problem():
  rows = [scored(p, i) for p in 'abcdef' for i in range(20)]

  def draw(seed=0, iteration=1, rows=rows):
    kept, dropped, _ = choose(
      rows, Selection(max_per_problem=4, seed=seed), iteration
    )
    assert dropped == Counter(
      {'duplicate': 0, 'over max_per_problem': 6 * (20 - 4)}
    )
    return indices(kept)

  first = draw()
  assert all(len(set(found)) == 4 for found in first.values())
  assert first == draw()
  assert first == draw(rows=rows[::-1])  # the order of the rows is no matter
  assert first != draw(seed=1) and first != draw(iteration=2)
  # Each problem draws on its own, and without the others the same.
  assert len(set(map(tuple, first.values()))) > 1
  alone = [r for r in rows if r.sample.problem_id == 'c']
  kept, _, _ = choose(alone, Selection(max_per_problem=4), 1)
  assert indices(kept) == {'c': first['c']}
  # At random, not the first ones: over many problems every index is drawn.
  many = [scored(f'p{n}', i) for n in range(60) for i in range(20)]
  kept, _, _ = choose(many, Selection(max_per_problem=4), 1)
  counts = Counter(i for found in indices(kept).values() for i in found)
  assert set(counts) == set(range(20)) and max(counts.values()) < 30


def test_the_cap_on_problems():
  rows = [scored(p, i) for p in 'abcdefgh' for i in range(2)]
  rows.append(scored('z', 0, reason='wrong'))

  def draw(seed, rows=rows):
    kept, dropped, totals = choose(
      rows, Selection(max_problems=3, seed=seed), 1
    )
    assert dropped['over max_problems'] == 10
    assert (totals['problems'], totals['solved']) == (9, 8)
    return set(kept)

  assert len(draw(0)) == 3 and draw(0) == draw(0, rows[::-1])
  assert len({frozenset(draw(seed)) for seed in range(8)}) > 1


ROWS = st.lists(
  st.tuples(
    st.sampled_from('abcde'),
    st.sampled_from(['1', '2', ' 1', '3', '4', '5']),
    st.sampled_from(['correct', 'correct', 'wrong', 'truncated', 'timeout']),
  ),
  max_size=60,
)


@given(ROWS, st.integers(1, 4), st.none() | st.integers(1, 4), st.randoms())
def test_every_sample_is_accounted_for(rows, cap, max_problems, random):
  found = [scored(p, i, text, why) for i, (p, text, why) in enumerate(rows)]
  selection = Selection(max_per_problem=cap, max_problems=max_problems)
  kept, dropped, totals = choose(found, selection, 1)
  num_kept = sum(map(len, kept.values()))
  assert num_kept + dropped.total() == totals['samples'] == len(rows)
  assert totals['right'] == sum(why == 'correct' for _, _, why in rows)
  assert all(0 < len(samples) <= cap for samples in kept.values())
  assert max_problems is None or len(kept) <= max_problems
  for samples in kept.values():
    texts = [select.normalised(s.text) for s in samples]
    assert len(set(texts)) == len(texts)
  shuffled = list(found)
  random.shuffle(shuffled)
  assert indices(choose(shuffled, selection, 1)[0]) == indices(kept)


# --- The files ----------------------------------------------------------------

PROMPTS = {'a': (1, 2), 'b': (3,)}


def mixed_rows():
  return [
    *(scored('a', i) for i in range(4)),
    scored('a', 4, 'solution 0'),
    scored('b', 0),
    scored('b', 1, reason='wrong'),
  ]


def run(directory, rows, **fields):
  selection = Selection(max_per_problem=3, **fields)
  return select.select(directory, iter(rows), PROMPTS, selection, 1)


def test_files(directory):
  summary = run(directory, mixed_rows())
  assert summary.dropped == {
    'duplicate': 1,
    'over max_per_problem': 1,
    'wrong': 1,
  }
  assert summary.kept == {'a': 3, 'b': 1}
  assert (summary.num_kept, summary.tokens) == (4, 8)
  assert summary.coverage == 1.0
  assert summary.num_kept + sum(summary.dropped.values()) == 7
  assert json.loads((directory / 'select.json').read_text())['kept'] == {
    'a': 3,
    'b': 1,
  }
  examples = list(read_examples(directory / 'selected.arrayrecord'))
  for example in examples:
    problem, _, index = example.id.partition('#')
    assert example.prompt_ids == PROMPTS[problem]
    assert example.target_ids == (int(index) + 5, 7)  # as sampled
    assert example.weight == 1.0
  assert len({e.id for e in examples}) == 4


def test_weights_per_problem(directory):
  run(directory, mixed_rows(), weighting='per_problem')
  total = Counter()
  for example in read_examples(directory / 'selected.arrayrecord'):
    total[example.id.partition('#')[0]] += example.weight
  assert total == pytest.approx({'a': 1.0, 'b': 1.0})


def test_is_done_once(directory):
  first = run(directory, mixed_rows())
  assert run(directory, iter(())) == first  # the samples are not read again


def test_nothing_right(directory):
  rows = [scored('a', 0, reason='wrong')]
  summary = run(directory, rows)
  assert (summary.num_kept, summary.coverage) == (0, 0.0)
  assert [p.name for p in directory.iterdir()] == ['select.json']
  assert run(directory, iter(())) == summary


@pytest.mark.parametrize('damage', ['flip', 'cut', 'gone'])
def test_a_damaged_file_is_named_and_redone(directory, damage, caplog):
  run(directory, mixed_rows())
  path = directory / 'selected.arrayrecord'
  good = path.read_bytes()
  if damage == 'gone':
    path.unlink()
  else:
    at = good.index(b'prompt_ids')
    bad = good[:at] + b'q' + good[at + 1 :] if damage == 'flip' else good[:-99]
    path.write_bytes(bad)
  run(directory, mixed_rows())
  assert path.read_bytes() == good
  if damage != 'gone':
    assert f'{path} is damaged; it will be redone' in caplog.text


def test_what_a_kill_left_is_removed(directory):
  shards.write_atomic(directory / 'select.json.tmp-1234', 'half')
  run(directory, mixed_rows())
  assert not list(directory.glob('*.tmp-*'))


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'weighting': 'even'}, 'write one of pooled, per_problem'),
    ({'max_per_problem': 0}, 'write 1 or more'),
  ],
)
def test_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    Selection(**fields)
