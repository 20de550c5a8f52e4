"""The training mixture, declared in SeqIO and materialised for Grain.

In: files of selected examples, human solutions of any source, rates. Out: SeqIO
Tasks of token ids (inputs, targets, weight; the id passes along), and one file
of `Example`s drawn from a Mixture of them. Trainers read that file and need no
TensorFlow (`data.examples`, `training.batches`).
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

from etils import epath
import numpy as np
import seqio
import tensorflow as tf

from restem_jax.data import human, seqio_registry, splits
from restem_jax.data.examples import read_examples, write_examples
from restem_jax.data.source import Source
from restem_jax.records import Example
from restem_jax.tokenizer import Tokenizer

FEATURES = {
  'inputs': seqio_registry.feature(tf.int32, 1),
  'targets': seqio_registry.feature(tf.int32, 1),
  'weight': seqio_registry.feature(tf.float32, 0),
}
_ID = {'id': tf.TensorSpec((), tf.string)}


def _rows(examples: Sequence[Example]) -> list[dict[str, object]]:
  return [
    {
      'id': example.id,
      'inputs': example.prompt_ids,
      'targets': example.target_ids,
      'weight': example.weight,
    }
    for example in examples
  ]


def register_selected(name: str, path: epath.PathLike) -> seqio.Task:
  """Registers a file of examples (`write_examples`) as the Task `name`.

  Features: inputs int32 [T], targets int32 [T], weight float32 []; and id,
  which `get_dataset(passthrough_features=['id'])` of a Mixture keeps.

  Raises:
    ValueError: if the file is missing or damaged.
  """
  examples = read_examples(path)
  return seqio_registry.register(
    name,
    lambda split: _rows(examples),
    features=FEATURES,
    passed=_ID,
    sizes={'train': len(examples)},
  )


def register_human(
  name: str,
  source: Source,
  text_fn: human.TextFn,
  tokenizer: Tokenizer,
  *,
  weight: float = 1.0,
) -> seqio.Task:
  """Registers the human solutions of a source as the Task `name`.

  Args:
    name: of the Task; its splits are those of the source.
    source: gives the problems, when the Task is read.
    text_fn: prompt and target of a problem, e.g. `human.template_text(...)`.
    tokenizer: the model's.
    weight: of each example in the loss.
  """

  def rows_fn(split: str) -> list[dict[str, object]]:
    problems = source.load(split)
    return _rows(
      list(human.human_examples(problems, text_fn, tokenizer, weight=weight))
    )

  return seqio_registry.register(
    name,
    rows_fn,
    features=FEATURES,
    passed=_ID,
    splits=('train', 'validation', 'test'),
  )


def _mixture(mixture: str | Mapping[str, float]) -> seqio.Mixture | seqio.Task:
  if isinstance(mixture, str):
    return seqio.get_mixture_or_task(mixture)
  for name, rate in mixture.items():
    if not (math.isfinite(rate) and rate > 0):
      raise ValueError(
        f'rate {rate} of {name!r}: write a positive number, or leave it out'
      )
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if not mixture or (unknown := sorted(set(mixture) - known)):
    raise ValueError(
      f'no SeqIO Task {unknown if mixture else ""} to mix; register it, or'
      f' name some of {sorted(known)}'
    )
  # Not registered: another draw may mix the same names at other rates.
  return seqio.Mixture('_'.join(sorted(mixture)), list(mixture.items()))


def _epochs(task: seqio.Task, seed: int) -> Iterator[Mapping[str, Any]]:
  """The train rows of a Task over and over, each pass in another order."""
  for epoch in itertools.count():
    order = np.random.SeedSequence([seed, epoch]).generate_state(1)[0]
    dataset = task.get_dataset(
      sequence_length=None,
      split='train',
      shuffle=True,
      # SeqIO's own repetition shuffles across passes: some rows would come
      # twice before others come once.
      num_epochs=1,
      shuffle_buffer_size=task.num_input_examples('train') or 2**16,
      seed=int(order),
    )
    row = None
    for row in dataset.as_numpy_iterator():
      yield row
    if row is None:
      raise ValueError(
        f'SeqIO Task {task.name!r} has no train examples; leave it out'
      )


def draw(
  mixture: str | Mapping[str, float], num_examples: int, *, seed: int
) -> Iterator[Example]:
  """Draws examples of a mixture, in a shuffled order.

  Each Task gives its share by rate, exact up to rounding, and within a Task no
  example comes once more before all others came as often. The same registered
  examples, rates and seed give the same draws. Arguments and errors are those
  of `materialise`.
  """
  if num_examples < 1:
    raise ValueError(f'num_examples={num_examples}: write 1 or more')
  provider = _mixture(mixture)
  for key, wanted in FEATURES.items():
    found = provider.output_features.get(key)
    if found is None or (found.dtype, found.rank) != (
      wanted.dtype,
      wanted.rank,
    ):
      raise ValueError(
        f'SeqIO {provider.name!r} holds no training examples: feature {key!r}'
        f' must be {wanted.dtype.name} of rank {wanted.rank}'
      )
  if isinstance(provider, seqio.Mixture):
    tasks = provider.tasks
    rates = [provider.get_rate(task) for task in tasks]
  else:
    tasks, rates = [provider], [1.0]
  counts = splits.allot(num_examples, [num_examples] * len(tasks), rates)
  turns = np.repeat(np.arange(len(tasks)), counts)
  np.random.default_rng(seed).shuffle(turns)
  streams = [_epochs(task, seed) for task in tasks]
  for number, turn in enumerate(turns):
    row = next(streams[turn])
    name = tasks[turn].name
    yield Example(
      id=row['id'].decode() if 'id' in row else f'{name}/{number}',
      prompt_ids=tuple(row['inputs'].tolist()),
      target_ids=tuple(row['targets'].tolist()),
      weight=float(row['weight']),
    )


def materialise(
  mixture: str | Mapping[str, float],
  out_path: epath.PathLike,
  num_examples: int,
  seed: int,
) -> int:
  """Draws `num_examples` of a mixture into one file of `Example`s.

  Example: `materialise({'selected': 1.0, 'human': 0.2}, path, 1200, seed=0)`
  draws 1000 selected and 200 human examples.

  Args:
    mixture: the name of a Task or Mixture, or Task name -> rate.
    out_path: of the file; it appears when it is complete.
    num_examples: how many, in all.
    seed: of the orders.

  Returns:
    The number written.

  Raises:
    ValueError: for unknown Tasks, rates that are not positive, Tasks that hold
      no training examples, or one without any.
  """
  return write_examples(out_path, draw(mixture, num_examples, seed=seed))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingMixture:
  """The training set of an M-step: selected samples, human data, other runs.

  Example: `TrainingMixture(rates={'selected': 1.0, 'human': 0.25})` has one
  human solution for four selected samples.

  Attributes:
    rates: SeqIO rates of Tasks. `selected` and `human` are made here: the
      iteration's own examples, and the human solutions of the task's training
      problems. Other names are registered Tasks of examples, or of `files`.
    files: name -> ArrayRecord of examples, e.g. another run's
      `iteration_01/dataset/selected.arrayrecord`.
    num_examples: drawn in all; None for so many that each selected example
      comes once.
  """

  rates: Mapping[str, float]
  files: Mapping[str, epath.PathLike] = dataclasses.field(default_factory=dict)
  num_examples: int | None = None

  def __post_init__(self):
    if 'selected' not in self.rates and self.num_examples is None:
      raise ValueError(
        "TrainingMixture.rates has no 'selected', so num_examples is needed"
      )

  def __call__(
    self,
    selected: epath.PathLike,
    out_path: epath.PathLike,
    source: Source,
    text_fn: human.TextFn,
    tokenizer: Tokenizer,
    *,
    seed: int,
  ) -> None:
    """Registers the Tasks and writes the drawn examples to `out_path`."""
    num_selected = register_selected('selected', selected).num_input_examples(
      'train'
    )
    if 'human' in self.rates:
      register_human('human', source, text_fn, tokenizer)
    for name, path in self.files.items():
      register_selected(name, path)
    num = self.num_examples
    if num is None:
      assert num_selected is not None
      share = self.rates['selected'] / sum(self.rates.values())
      num = round(num_selected / share)
    materialise(self.rates, out_path, num, seed)
