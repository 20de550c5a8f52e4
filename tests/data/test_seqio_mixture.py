"""Training mixtures in SeqIO, drawn into ArrayRecord; loads TensorFlow."""

# ruff: noqa: E402 (imports follow the skip where SeqIO is not installed)

import collections
import json

import pytest
import tiny

seqio = pytest.importorskip('seqio')

import numpy as np

from restem_jax.data import (
  examples,
  human,
  jsonl,
  seqio_mixture,
  seqio_tasks,
)
from restem_jax.data.prompts import PromptTemplate
from restem_jax.records import Example
from restem_jax.tokenizer import Tokenizer


def some(name, n):
  return [
    Example(
      id=f'{name}{i}',
      prompt_ids=tuple(range(i)),  # the first is empty
      target_ids=(i, 2),
      weight=1 / (i + 1),
    )
    for i in range(n)
  ]


@pytest.fixture
def selected(tmp_path):
  for name, n in (('one', 40), ('two', 9), ('none', 0)):
    examples.write_examples(tmp_path / name, some(name, n))
    seqio_mixture.register_selected(f'test_{name}', tmp_path / name)
  yield tmp_path
  for name in ('one', 'two', 'none'):
    seqio.TaskRegistry.remove(f'test_{name}')


def test_seqio_tools_read_and_mix_selected_examples(selected):
  task = seqio.get_mixture_or_task('test_two')
  rows = list(
    task.get_dataset(split='train', shuffle=False).as_numpy_iterator()
  )
  assert [row['id'].decode() for row in rows] == [f'two{i}' for i in range(9)]
  assert rows[3]['inputs'].tolist() == [0, 1, 2]
  assert rows[3]['targets'].dtype == np.int32
  assert rows[3]['weight'] == np.float32(0.25)
  mixture = seqio.Mixture('m', [('test_one', 3.0), ('test_two', 1.0)])
  batch = next(
    mixture.get_dataset(
      sequence_length={'inputs': 8, 'targets': 8},
      split='train',
      seed=0,
      passthrough_features=['id'],
    )
    .padded_batch(16)
    .as_numpy_iterator()
  )
  assert batch['targets'].shape == (16, 2)
  assert {i[:3] for i in batch['id']} == {b'one', b'two'}


def test_materialise_by_rates_evenly_and_deterministically(selected):
  rates = {'test_one': 1.0, 'test_two': 0.5}
  outs = {}
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    out = selected / f'{name}.array_record'
    assert seqio_mixture.materialise(rates, out, 60, seed) == 60
    outs[name] = out.read_bytes()
  assert outs['a'] == outs['b'] != outs['c']
  drawn = list(examples.read_examples(selected / 'a.array_record'))
  counts = collections.Counter(example.id for example in drawn)
  # 40 : 20 exactly; 40 are all of `one`, once; 20 of 9 are 2 or 3 of each.
  assert {counts[f'one{i}'] for i in range(40)} == {1}
  assert {counts[f'two{i}'] for i in range(9)} == {2, 3}
  ids = [example.id for example in drawn]
  assert ids != sorted(ids)
  # All but the weight comes back exactly, the weight as float32.
  originals = {e.id: e for e in some('one', 40) + some('two', 9)}
  for example in drawn:
    original = originals[example.id]
    assert example.prompt_ids == original.prompt_ids
    assert example.target_ids == original.target_ids
    assert example.weight == np.float32(original.weight)


def test_registered_mixture_and_single_task(selected):
  seqio.MixtureRegistry.add('test_m', [('test_one', 1.0), ('test_two', 3.0)])
  try:
    drawn = list(seqio_mixture.draw('test_m', 8, seed=0))
    kinds = collections.Counter(example.id[:3] for example in drawn)
    assert kinds == {'one': 2, 'two': 6}
  finally:
    seqio.MixtureRegistry.remove('test_m')
  drawn = list(seqio_mixture.draw('test_two', 9, seed=3))
  assert {e.id for e in drawn} == {f'two{i}' for i in range(9)}


@pytest.mark.parametrize(
  'rates, num, message',
  [
    ({'test_one': 0.0}, 5, 'positive'),
    ({'test_one': float('nan')}, 5, 'positive'),
    ({}, 5, 'no SeqIO Task'),
    ({'test_zero': 1.0}, 5, r"\['test_zero'\]"),
    ({'test_one': 1.0, 'test_none': 1.0}, 5, "'test_none' has no train"),
    ({'test_one': 1.0}, 0, 'num_examples=0'),
    ('test_problems', 5, "'inputs' must be int32"),
  ],
)
def test_bad_mixtures_write_nothing(selected, rates, num, message):
  seqio_tasks.register_problems('test_problems', lambda split: [])
  out = selected / 'out.array_record'
  with pytest.raises(ValueError, match=message):
    seqio_mixture.materialise(rates, out, num, 0)
  assert not [p for p in selected.iterdir() if p.name.startswith('out')]


def test_a_damaged_file_is_refused_when_registered(selected):
  path = selected / 'one'
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match='damaged'):
    seqio_mixture.register_selected('test_one', path)


def test_human_solutions_mix_with_selected(selected):
  lines = [
    json.dumps({'question': f'{i} + 1 =', 'answer': i + 1}) for i in range(12)
  ]
  path = selected / 'sums.jsonl'
  path.write_text('\n'.join(lines))
  tokenizer = Tokenizer(tiny.tiny_tokenizer(), bos_id=1, eos_ids=(2,))
  problems = jsonl.JsonlSource(path, test_fraction=0, validation_fraction=0)
  text_fn = human.template_text(PromptTemplate(), problems, tokenizer)
  seqio_mixture.register_human(
    'test_human', problems, text_fn, tokenizer, weight=0.5
  )
  try:
    drawn = list(
      seqio_mixture.draw({'test_one': 1.0, 'test_human': 0.25}, 30, seed=0)
    )
  finally:
    seqio.TaskRegistry.remove('test_human')
  humans = [e for e in drawn if e.id.endswith('#human')]
  assert len(humans) == 6 and {e.weight for e in humans} == {0.5}
  text = tokenizer.decode(humans[0].prompt_ids + humans[0].target_ids)
  number = int(text.split()[1])
  assert text == f'Question: {number} + 1 =\nAnswer: {number + 1}\n'
