"""Examples to ArrayRecord and back."""

import pickle
import subprocess
import sys

import hypothesis
from hypothesis import strategies as st
import msgpack
import pytest

from restem_jax.data import examples
from restem_jax.records import Example

ids = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(tuple)
any_example = st.builds(
  Example,
  id=st.text(st.characters(exclude_categories=['Cs'])),
  prompt_ids=ids,
  target_ids=ids.filter(bool),
  weight=st.floats(allow_nan=False, allow_infinity=False),
)


def some(n):
  return [
    Example(id=f'p#{i}', prompt_ids=(1, i), target_ids=(i, 2), weight=i / 3)
    for i in range(n)
  ]


@hypothesis.given(any_example)
def test_record_round_trip(example):
  assert examples.decode(examples.encode(example)) == example


def test_file_round_trip_and_random_access(tmp_path):
  path = tmp_path / 'deep' / 'a.array_record'
  assert examples.write_examples(path, iter(some(50))) == 50
  found = examples.read_examples(path)
  assert len(found) == 50
  assert list(found) == some(50)
  assert found[17] == some(50)[17] and found[-1] == some(50)[-1]
  assert found[3:6] == some(50)[3:6]
  with pytest.raises(IndexError):
    found[50]
  assert [p.name for p in path.parent.iterdir()] == ['a.array_record']


def test_the_same_examples_give_the_same_bytes(tmp_path):
  for name in 'ab':
    examples.write_examples(tmp_path / name, some(200))
  assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()
  assert examples.fingerprint(some(9)) == examples.fingerprint(some(9))
  assert examples.fingerprint(some(9)) != examples.fingerprint(some(9)[::-1])


def test_an_empty_file_is_whole(tmp_path):
  assert examples.write_examples(tmp_path / 'a', []) == 0
  assert list(examples.read_examples(tmp_path / 'a')) == []


def test_grain_workers_can_pickle_it(tmp_path):
  examples.write_examples(tmp_path / 'a', some(5))
  # The bytes are our own, as between Grain's processes.
  sent = pickle.dumps(examples.read_examples(tmp_path / 'a'))
  found = pickle.loads(sent)  # noqa: S301
  assert list(found) == some(5)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / 'a'
  examples.write_examples(path, some(3))
  with pytest.raises(ValueError, match="'bad'"):
    examples.write_examples(
      path, [*some(9), Example(id='bad', prompt_ids=(), target_ids=())]
    )
  assert list(examples.read_examples(path)) == some(3)
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'weight': float('nan')}, 'weight nan'),
    ({'target_ids': ()}, 'no target'),
    ({'target_ids': (-1,)}, 'token ids'),
    ({'prompt_ids': (2**31,)}, 'token ids'),
  ],
)
def test_untrainable_examples_are_refused(fields, message):
  values = {'id': 'x', 'prompt_ids': (1,), 'target_ids': (1,), **fields}
  with pytest.raises(ValueError, match=message):
    examples.encode(Example(**values))


@pytest.mark.parametrize('damage', ['cut', 'empty', 'foreign', 'longer'])
def test_damaged_files_are_named(tmp_path, damage):
  path = tmp_path / 'a.array_record'
  examples.write_examples(path, some(2000))
  data = path.read_bytes()
  path.write_bytes(
    {
      'cut': data[: len(data) // 2],
      'empty': b'',
      'foreign': b'{"id": 1}\n' * 1000,
      'longer': data + b'more',
    }[damage]
  )
  with pytest.raises(ValueError, match=r'a\.array_record: damaged'):
    examples.read_examples(path)


def test_a_flipped_bit_is_found_on_access(tmp_path):
  path = tmp_path / 'a.array_record'
  examples.write_examples(path, some(2000))
  data = bytearray(path.read_bytes())
  data[len(data) // 3] ^= 1
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r'damaged \(record \d+'):
    list(examples.read_examples(path))


def test_missing_file():
  with pytest.raises(ValueError, match='no such file'):
    examples.read_examples('/nowhere/a.array_record')


@pytest.mark.parametrize(
  'record',
  [
    b'',
    b'\xc1',
    msgpack.packb([1]),
    msgpack.packb({'id': 'x'}),
    msgpack.packb(
      {'id': 'x', 'prompt_ids': b'123', 'target_ids': b'', 'weight': 1.0}
    ),
  ],
)
def test_foreign_records(record):
  with pytest.raises(ValueError, match='not a training example'):
    examples.decode(record)


def test_needs_neither_tensorflow_nor_jax():
  code = (
    'import sys\n'
    'for name in ("tensorflow", "seqio", "jax"): sys.modules[name] = None\n'
    'from restem_jax.data import'
    ' arithmetic, examples, human, jsonl, prompts, source, splits\n'
    'print("fine")'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert done.stdout == 'fine\n', done.stderr
