"""Problems from SeqIO: the registered Tasks, and a source over any of them.

In: the name of a Task or Mixture. Out: `SeqioSource`, a `data.source.Source`.
Importing this module registers

  arithmetic      a Mixture of arithmetic_{chain_sum,products,gcd,leg_counting}
  gsm8k           grade-school word problems (arXiv:2110.14168)
  hendrycks_math  competition mathematics (arXiv:2103.03874)

A Task carries text (id, question, answer, solution, task, and meta as JSON);
tokenising comes later, since the tokenizer belongs to the model. A user's own
Task needs question and answer, and is registered by importing its module. Not
here are Tasks of programs (`data.seqio_code`) and the training mixture of token
ids (`data.seqio_mixture`).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any

from etils import epath
import numpy as np
import seqio
import tensorflow as tf

from restem_jax.data import (
  arithmetic,
  jsonl,
  seqio_download,
  seqio_registry,
  source,
  splits,
)
from restem_jax.records import Problem

FEATURES = {
  key: seqio_registry.feature(tf.string, 0)
  for key in ('id', 'question', 'answer', 'solution', 'task', 'meta')
}

# The path of a Task's files, None where none is given -> its problems.
ReadFn = Callable[[epath.PathLike | None], source.Splits]

# Problems per split of each arithmetic family; all of them have as many.
ARITHMETIC_SIZES = {'train': 512, 'validation': 128, 'test': 256}


def register_problems(
  name: str,
  problems_fn: Callable[[str], Sequence[Problem]],
  *,
  splits: Sequence[str] = source.SPLITS,
  sizes: Mapping[str, int] | None = None,
  register_at: Callable[[epath.PathLike], Any] | None = None,
) -> seqio.Task:
  """Registers a Task of problems: `problems_fn` gives those of a split.

  A split 'shots' beside the usual ones holds the examples for few-shot
  prompts; without it they are taken from train.
  """

  def rows_fn(split: str) -> list[dict[str, str]]:
    return [
      {**dataclasses.asdict(p), 'meta': json.dumps(dict(p.meta))}
      for p in problems_fn(split)
    ]

  return seqio_registry.register(
    name,
    rows_fn,
    features=FEATURES,
    splits=splits,
    sizes=sizes,
    register_at=register_at,
  )


def register_arithmetic(
  name: str = 'arithmetic',
  *,
  families: Sequence[str] = tuple(arithmetic.FAMILIES),
  sizes: Mapping[str, int] | None = None,
  seed: int = 0,
) -> seqio.Mixture:
  """Registers `name`_{family} Tasks and the Mixture `name` of equal rates.

  Args:
    name: of the Mixture.
    families: keys of `arithmetic.FAMILIES`.
    sizes: problems per split and family; default `ARITHMETIC_SIZES`.
    seed: of the draw; no seed moves a question to another split.
  """
  sizes = dict(sizes or ARITHMETIC_SIZES)
  tasks = []
  for family in families:

    def problems_fn(split: str, family: str = family) -> list[Problem]:
      return arithmetic.problems(family, split, sizes[split], seed=seed)

    task_name = f'{name}_{family}'
    register_problems(task_name, problems_fn, splits=tuple(sizes), sizes=sizes)
    tasks.append(task_name)
  # A Mixture keeps its Tasks: it is made anew with them.
  seqio.MixtureRegistry.remove(name)
  return seqio.MixtureRegistry.add(name, tasks, default_rate=1.0)


def register_files(
  name: str,
  path: epath.PathLike | None = None,
  *,
  layout: str | None = None,
  read_fn: ReadFn | None = None,
  splits: Sequence[str] = source.SPLITS,
) -> seqio.Task:
  """Registers a Task over files.

  Args:
    name: of the Task; 'gsm8k' and 'hendrycks_math' know where to look when no
      path is given: TFDS, then the hub.
    path: as for `jsonl.JsonlSource`; missing splits are carved out of train.
    layout: default: the layout called `name`.
    read_fn: reads other files than JSONL; called with `path` on first use.
    splits: of the Task; attributes of `source.Splits`.
  """

  @functools.cache
  def read() -> source.Splits:
    if read_fn is not None:
      return read_fn(path)
    if path is not None:
      return jsonl.JsonlSource(path, name=name, layout=layout or name).splits
    return jsonl.split_problems(seqio_download.load(name), name=name)

  return register_problems(
    name,
    lambda split: list(getattr(read(), split)),
    splits=splits,
    register_at=functools.partial(
      register_files, name, layout=layout, read_fn=read_fn, splits=splits
    ),
  )


def _register_at(name: str, path: epath.PathLike) -> None:
  """Has the Task `name` read a path."""
  readers = {}
  for task_name in seqio.TaskRegistry.names():
    found = seqio.TaskRegistry.get(task_name).source
    if isinstance(found, seqio_registry.PythonSource) and found.register_at:
      readers[task_name] = found.register_at
  if name not in readers:
    raise ValueError(
      f'data_path={str(path)!r} is for the Tasks'
      f' {", ".join(map(repr, sorted(readers)))}, not for {name!r}; leave it'
      f' out, or use JsonlSource for your own file'
    )
  readers[name](path)


def _mixture_or_task(name: str) -> seqio.Task | seqio.Mixture:
  try:
    return seqio.get_mixture_or_task(name)
  except ValueError:
    known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
    raise ValueError(
      f'no SeqIO Task or Mixture {name!r}; registered are {sorted(known)}. Your'
      f' own is registered by its module: import that in the gin file. For a'
      f" JSONL file use JsonlSource('file.jsonl')"
    ) from None


@dataclasses.dataclass(frozen=True)
class SeqioSource(source.SplitSource):
  """Problems of a registered Task or Mixture, in the order of each Task.

  Of a Mixture every Task is read whole, and `num_*`, totals over the Mixture,
  are shared out by the rates; the problems of the Tasks alternate.

  Raises (on first use): ValueError if nothing of that name is registered, or a
    Task has no text to ask; and whatever the Task's own reading raises.
  """

  mixture: str  # the name of a Task or Mixture
  _: dataclasses.KW_ONLY
  num_train: int | None = None  # at most so many in all; None: all there are
  num_validation: int | None = None
  num_test: int | None = None
  num_shots: int = 2  # per Task, held out of all splits
  # Of Tasks that read files: a file or folder, or Task name -> path.
  data_path: epath.PathLike | Mapping[str, epath.PathLike] | None = None
  seed: int = 0  # of carved splits and of the order, where it is shuffled
  shuffle: bool = False  # by a seeded hash: for Tasks sorted by subject
  validation_fraction: float = 0.1  # of train, where a Task has no such split
  test_fraction: float = 0.1
  question_feature: str = 'question'
  answer_feature: str = 'answer'
  name: str = ''  # default: the Mixture's

  def __post_init__(self):
    if not self.name:
      object.__setattr__(self, 'name', self.mixture)

  def read(self) -> source.Splits:
    data_path = self.data_path
    if isinstance(data_path, Mapping):
      data_path = data_path.get(self.mixture)
    if data_path is not None:
      _register_at(self.mixture, data_path)
    provider = _mixture_or_task(self.mixture)
    rates: dict[str, float] = {}
    by_split = {split: [] for split in (*source.SPLITS, 'shots')}
    if isinstance(provider, seqio.Mixture):
      rates = {task.name: provider.get_rate(task) for task in provider.tasks}
      tasks = provider.tasks
    else:
      tasks = [provider]
    for task in tasks:
      carved = splits.carve(
        {s: self._problems(task, s) for s in source.SPLITS if s in task.splits},
        name=task.name,
        seed=self.seed,
        validation_fraction=self.validation_fraction,
        test_fraction=self.test_fraction,
      )
      for split, problems in carved.items():
        if self.shuffle:
          problems.sort(key=lambda p: splits.unit_hash(self.seed, p.id))
        by_split[split] += problems
      if 'shots' in task.splits:
        by_split['shots'] += self._problems(task, 'shots')
    return splits.assemble(
      by_split,
      name=self.name,
      num_train=self.num_train,
      num_validation=self.num_validation,
      num_test=self.num_test,
      num_shots=self.num_shots,
      rates=rates or None,
    )

  def _problems(self, task: seqio.Task, split: str) -> list[Problem]:
    dataset = task.get_dataset(
      split=split, shuffle=False, trim_output_features=False
    )
    needed = (self.question_feature, self.answer_feature)
    for key in needed:
      if key not in dataset.element_spec:
        raise ValueError(
          f'SeqIO Task {task.name!r} has no feature {key!r} (it has'
          f' {sorted(dataset.element_spec)}); add a preprocessor that keeps the'
          f' raw text under that name, or set question_feature, answer_feature'
        )
    problems = []
    for i, row in enumerate(dataset.as_numpy_iterator()):
      row = {key: _plain(value) for key, value in row.items()}
      meta = row.pop('meta', '{}')
      row.pop('task', None)  # the Task's own name, by which shots are found
      problems.append(
        Problem(
          id=str(row.pop('id', f'{task.name}/{split}/{i}')),
          question=str(row.pop(self.question_feature)),
          answer=str(row.pop(self.answer_feature)),
          solution=str(row.pop('solution', '')),
          task=task.name,
          meta={**row, **json.loads(meta)},
        )
      )
    return problems


def _plain(value: Any) -> Any:
  """A TF value as the JSON value that it stands for."""
  if isinstance(value, bytes):
    return value.decode('utf-8', 'replace')
  if isinstance(value, np.ndarray):
    return [_plain(v) for v in value.tolist()]
  return value.item() if isinstance(value, np.generic) else value


register_arithmetic()
register_files('gsm8k')
register_files('hendrycks_math')
