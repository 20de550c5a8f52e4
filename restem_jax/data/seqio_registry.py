"""Registers rows made in Python as SeqIO Tasks.

In: a function from split to rows (dicts of text, ids or numbers). Out: a Task
in SeqIO's registry that SeqIO's own tools read, mix and cache. Which tasks
there are is in `data.seqio_tasks` (problems) and `data.seqio_mixture`
(training examples).

Importing any seqio_* module loads TensorFlow, which by default takes all
memory of every GPU: here it is told to leave them alone.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

# A caller that has used TensorFlow's devices already has made its choice.
with contextlib.suppress(RuntimeError):
  tf.config.set_visible_devices([], 'GPU')

Row = Mapping[str, Any]
RowsFn = Callable[[str], Sequence[Row]]  # split -> its rows


class PythonSource(seqio.FunctionDataSource):
  """Rows made in Python; marks the Tasks that `register` may replace.

  Attributes:
    register_at: of a Task that reads files, registers it anew for a path.
  """

  register_at: Callable[[Any], Any] | None = None

  def get_dataset(self, *args, shuffle: bool = True, **kwargs):
    # All rows are in memory: SeqIO's shuffle after reading is enough, and its
    # warning about sources that do not shuffle would mislead.
    del shuffle
    return super().get_dataset(*args, shuffle=False, **kwargs)


def feature(dtype: Any, rank: int) -> seqio.utils.Feature:
  """A feature that SeqIO hands on as it is: text, ids or a number."""
  return seqio.utils.Feature(
    seqio.PassThroughVocabulary(size=0),
    add_eos=False,
    dtype=dtype,
    rank=rank,
  )


def register(
  name: str,
  rows_fn: RowsFn,
  *,
  features: Mapping[str, seqio.utils.Feature],
  passed: Mapping[str, tf.TensorSpec] | None = None,
  splits: Sequence[str] = ('train',),
  sizes: Mapping[str, int] | None = None,
  register_at: Callable[[Any], Any] | None = None,
) -> seqio.Task:
  """Adds a Task; one of the same name made here before is replaced.

  Args:
    name: of the Task; letters, digits and underscores.
    rows_fn: called when a split is read; what it raises reaches the reader.
    features: the Task's output features.
    passed: further features of the rows, not among the output features.
    splits: the splits that `rows_fn` knows.
    sizes: rows per split, where they are known beforehand.
    register_at: see `PythonSource`.

  Raises:
    ValueError: if a Task or Mixture of that name was registered elsewhere.
  """
  specs = {
    key: tf.TensorSpec((None,) * f.rank, f.dtype) for key, f in features.items()
  }
  specs.update(passed or {})

  def dataset_fn(
    split: str, shuffle_files: bool = False, seed: int | None = None
  ) -> tf.data.Dataset:
    # The order is the rows' own; SeqIO shuffles after reading.
    del shuffle_files, seed
    rows = rows_fn(split)
    columns: Any = {
      key: _column(rows, key, spec) for key, spec in specs.items()
    }
    return tf.data.Dataset.from_tensor_slices(columns)

  if name in seqio.TaskRegistry.names():
    if not isinstance(seqio.TaskRegistry.get(name).source, PythonSource):
      raise ValueError(
        f'there is a SeqIO Task {name!r} from elsewhere; take another name'
      )
    seqio.TaskRegistry.remove(name)
  if name in seqio.MixtureRegistry.names():
    raise ValueError(f'there is a SeqIO Mixture {name!r}; take another name')
  # SeqIO itself calls its sources without sizes by an interface that has them.
  source: Any = PythonSource(
    dataset_fn, splits=tuple(splits), num_input_examples=sizes
  )
  source.register_at = register_at
  return seqio.TaskRegistry.add(
    name,
    source=source,
    preprocessors=[seqio.CacheDatasetPlaceholder()],
    output_features=features,
  )


def _column(rows: Sequence[Row], key: str, spec: tf.TensorSpec) -> Any:
  """One feature of all rows, as tf.data slices it; ids are ragged."""
  if spec.dtype == tf.string:
    return tf.constant([row[key].encode() for row in rows], tf.string)
  dtype = spec.dtype.as_numpy_dtype
  if spec.shape.rank == 0:
    return tf.constant(np.asarray([row[key] for row in rows], dtype))
  values = [np.asarray(row[key], dtype) for row in rows]
  ragged: Any = tf.RaggedTensor  # TensorFlow's stubs do not know its methods
  return ragged.from_row_lengths(
    np.concatenate([np.zeros(0, dtype), *values]),
    np.asarray([len(value) for value in values], np.int64),
  )
