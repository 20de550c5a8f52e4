"""What every source has in common."""

import dataclasses

import pytest

from restem_jax.data import source
from restem_jax.records import Problem


def problem(i, task='sums'):
  return Problem(id=f'{task}/{i}', question=f'{i}?', answer=str(i), task=task)


SPLITS = source.Splits(
  train=(problem(1), problem(2)),
  validation=(problem(3),),
  test=(problem(4),),
  shots=(problem(5), problem(6, 'products')),
)


class Counted(source.SplitSource):
  name, num_shots, reads = 'counted', 1, 0

  def read(self):
    self.reads += 1
    return SPLITS


def test_splits_are_read_once_and_cannot_be_changed_by_callers():
  found = Counted()
  assert isinstance(found, source.Source)
  found.load('train').clear()
  assert [p.id for p in found.load('train')] == ['sums/1', 'sums/2']
  assert found.reads == 1


def test_shots_are_those_of_the_task():
  assert [p.id for p in Counted().shots('products')] == ['products/6']
  with pytest.raises(ValueError, match=r"no shots for task 'gcd'.*shots_path"):
    Counted().shots('gcd')


def test_an_unknown_split_is_named():
  with pytest.raises(ValueError, match="no split 'dev'; write one of"):
    Counted().load('dev')


def test_the_fingerprint_tells_every_change():
  prints = {SPLITS.fingerprint()}
  for field in ('train', 'validation', 'test', 'shots'):
    old = getattr(SPLITS, field)
    new = (dataclasses.replace(old[0], answer='0'), *old[1:])
    changed = dataclasses.replace(SPLITS, **{field: new})
    prints.add(changed.fingerprint())
  moved = dataclasses.replace(SPLITS, train=SPLITS.test, test=SPLITS.train)
  prints.add(moved.fingerprint())
  assert len(prints) == 6
  assert Counted().fingerprint() == SPLITS.fingerprint()
