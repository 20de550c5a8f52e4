"""SeqIO Tasks of problems; loads TensorFlow, hence few tests and small data."""

# ruff: noqa: E402 (imports follow the skip where SeqIO is not installed)

import collections
import json

import pytest

seqio = pytest.importorskip('seqio')

import tensorflow as tf

from restem_jax.data import arithmetic, seqio_tasks, source, splits
from restem_jax.records import Problem


@pytest.fixture(scope='module')
def quick_start():
  pytest.importorskip('reasoning_gym')
  return seqio_tasks.SeqioSource(
    'arithmetic', num_train=256, num_validation=64, num_test=256
  )


def solve(problem):
  """Solves an arithmetic problem by other means than its generator."""
  numbers = [int(w) for w in re_numbers(problem.question)]
  if problem.task == 'arithmetic_products':
    return numbers[0] * numbers[1]
  if problem.task == 'arithmetic_gcd':
    return max(d for d in range(1, 51) if all(n % d == 0 for n in numbers))
  assert problem.task == 'arithmetic_chain_sum'
  sign = 1 if ' + ' in problem.question else -1
  return numbers[0] + sign * numbers[1]


def re_numbers(text):
  return ''.join(c if c.isdigit() else ' ' for c in text).split()


def test_quick_start_sizes_shots_and_disjointness(quick_start):
  train = quick_start.load('train')
  assert [len(quick_start.load(s)) for s in source.SPLITS] == [256, 64, 256]
  assert isinstance(quick_start, source.Source)
  families = [f'arithmetic_{f}' for f in sorted(arithmetic.FAMILIES)]
  assert [p.task for p in train] == families * 64
  seen = collections.Counter()
  everything = [p for s in source.SPLITS for p in quick_start.load(s)]
  for family in families:
    assert len(quick_start.shots(family)) == 2
    everything += quick_start.shots(family)
  seen.update(splits.normalised(p.question) for p in everything)
  assert max(seen.values()) == 1
  for problem in everything:
    if problem.task != 'arithmetic_leg_counting':
      assert problem.answer == str(solve(problem))
  with pytest.raises(ValueError, match="no shots for task 'sum'"):
    quick_start.shots('sum')


def test_a_larger_train_leaves_test_and_its_own_beginning(quick_start):
  larger = seqio_tasks.SeqioSource(
    'arithmetic', num_train=400, num_validation=64, num_test=256
  )
  assert larger.load('test') == quick_start.load('test')
  assert {p.id for p in quick_start.load('train')} < {
    p.id for p in larger.load('train')
  }
  assert larger.fingerprint() != quick_start.fingerprint()


def test_seqio_tools_read_the_mixture(quick_start):
  mixture = seqio.get_mixture_or_task('arithmetic')
  rows = list(
    mixture.get_dataset(
      sequence_length=None, split='test', shuffle=False, num_epochs=1
    )
    .take(4)
    .as_numpy_iterator()
  )
  assert set(rows[0]) == set(seqio_tasks.FEATURES)
  tests = {p.id for p in quick_start.load('test')}
  assert {row['id'].decode() for row in rows} <= tests
  sizes = seqio_tasks.ARITHMETIC_SIZES
  assert mixture.num_input_examples('train') == 4 * sizes['train']


def test_own_arithmetic_mixture():
  pytest.importorskip('reasoning_gym')
  for size in (5, 6):  # registering it again replaces it
    seqio_tasks.register_arithmetic(
      'sums', families=['chain_sum'], sizes={'train': size, 'test': 3}, seed=7
    )
  found = seqio_tasks.SeqioSource('sums', num_shots=1, validation_fraction=0)
  assert len(found.load('train')) == 5 and len(found.load('test')) == 3
  assert found.load('validation') == []
  assert found.load('train')[0].task == 'sums_chain_sum'


@pytest.fixture
def users_task():
  """A Task as a user registers one, with features of many kinds."""

  def dataset_fn(split, shuffle_files=False, seed=None):
    del shuffle_files, seed
    size = {'train': 40, 'test': 5}[split]
    start = {'train': 0, 'test': 38}[split]  # two test questions are in train
    return tf.data.Dataset.range(start, start + size).map(
      lambda i: {
        'question': tf.strings.as_string(i) + ' +\u2028 {0} =',
        'answer': tf.strings.as_string(i),
        'level': i,
        'inputs': tf.stack([i, i]),
      }
    )

  task = seqio.TaskRegistry.add(
    'users',
    source=seqio.FunctionDataSource(dataset_fn, splits=['train', 'test']),
    output_features={},
  )
  yield task
  seqio.TaskRegistry.remove('users')


def test_users_own_task(users_task, caplog):
  found = seqio_tasks.SeqioSource('users', num_shots=2, num_test=3)
  assert found.load('test')[0] == Problem(
    id='users/test/0',
    question='38 +\u2028 {0} =',
    answer='38',
    task='users',
    meta={'level': 38, 'inputs': [38, 38]},
  )
  assert len(found.load('test')) == 3
  # Validation is a share of train, and the leaks have left.
  rest = found.load('train') + found.load('validation') + found.shots('users')
  assert {p.answer for p in rest} == {str(i) for i in range(38)}
  assert 'dropped' in caplog.text
  shuffled = seqio_tasks.SeqioSource('users', shuffle=True)
  assert [p.id for p in shuffled.load('test')] != [
    p.id for p in found.load('test')
  ]
  with pytest.raises(ValueError, match=r"no feature 'prompt' \(it has"):
    seqio_tasks.SeqioSource('users', question_feature='prompt').load('test')


def test_foreign_task_is_not_replaced(users_task):
  with pytest.raises(ValueError, match="Task 'users' from elsewhere"):
    seqio_tasks.register_problems('users', lambda split: [])


def test_unknown_name_lists_what_there_is():
  with pytest.raises(ValueError, match=r"'aritmetic'; .*'arithmetic'"):
    seqio_tasks.SeqioSource('aritmetic').load('train')


def test_hendrycks_math_from_a_path(tmp_path):
  rows = [
    {'problem': f'p{i}', 'solution': rf'\boxed{{{i}}}', 'level': 'Level 1'}
    for i in range(50)
  ]
  path = tmp_path / 'train.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  found = seqio_tasks.SeqioSource('hendrycks_math', data_path=tmp_path)
  everything = [p for s in source.SPLITS for p in found.load(s)]
  everything += found.shots('hendrycks_math')
  assert sorted(int(p.answer) for p in everything) == list(range(50))
  assert found.load('test')[0].meta == {'level': 'Level 1'}
  with pytest.raises(ValueError, match='leave it out'):
    seqio_tasks.SeqioSource('arithmetic', data_path=tmp_path).load('train')
