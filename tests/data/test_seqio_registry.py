"""Rows made in Python become SeqIO Tasks that hand them on as they are."""

# ruff: noqa: E402 (imports follow the skip where SeqIO is not installed)

import pytest

seqio = pytest.importorskip('seqio')

import tensorflow as tf

from restem_jax.data import seqio_registry

FEATURES = {
  'ids': seqio_registry.feature(tf.int32, 1),
  'weight': seqio_registry.feature(tf.float32, 0),
}


def rows(split):
  return [
    {'ids': [1, 2], 'weight': 0.5, 'id': f'{split}/0'},
    {'ids': [], 'weight': 2.0, 'id': f'{split}/é'},
  ]


def register(name='registry_test'):
  return seqio_registry.register(
    name,
    rows,
    features=FEATURES,
    passed={'id': tf.TensorSpec((), tf.string)},
    splits=('train', 'test'),
    sizes={'train': 2, 'test': 2},
  )


def test_rows_come_out_in_their_order():
  task = register()
  for split in ('train', 'test'):
    dataset = task.get_dataset(None, split, shuffle=False)
    got = list(dataset.as_numpy_iterator())
    assert [row['ids'].tolist() for row in got] == [[1, 2], []]
    assert [float(row['weight']) for row in got] == [0.5, 2.0]
    ids = [row['id'].decode() for row in got]
    assert ids == [row['id'] for row in rows(split)]
  assert task.num_input_examples('train') == 2


def test_a_task_made_here_is_replaced_by_name():
  assert register() is not register()
  assert seqio.get_mixture_or_task('registry_test').splits == ('train', 'test')


def test_a_mixtures_name_is_taken():
  register('registry_part')
  seqio.MixtureRegistry.add('registry_mixture', ['registry_part'], 1.0)
  with pytest.raises(ValueError, match="Mixture 'registry_mixture'"):
    register('registry_mixture')
