"""Problems from JSONL files: a user's own, or a known data set's.

In: a `.jsonl` or `.jsonl.gz` file, or a folder of `{train,validation,test}`
files. Out: `JsonlSource`, a `data.source.Source`; or `load`, the plain list.
Needs no TensorFlow. What a row may look like is in `data.layouts`, how splits
are cut in `data.splits`.
"""

import dataclasses
import gzip
import zlib

from etils import epath

from restem_jax import records
from restem_jax.data import layouts, source, splits

SUFFIXES = ('.jsonl', '.jsonl.gz')
_PLAIN = layouts.PlainRow()


def stem(path: epath.PathLike) -> str:
  """The file's name without .jsonl or .jsonl.gz."""
  name = epath.Path(path).name
  for suffix in reversed(SUFFIXES):
    name = name.removesuffix(suffix)
  return name


def load(
  path: epath.PathLike,
  *,
  row_fn: layouts.RowFn = _PLAIN,
  task: str = '',
  id_prefix: str = '',
) -> list[records.Problem]:
  """Reads one file; all of it or nothing.

  Args:
    path: a .jsonl or .jsonl.gz file.
    row_fn: what makes a problem of a row.
    task: of the problems whose row names none; default: the file's stem.
    id_prefix: the id of a row that has none is `prefix + stem/line number`.

  Raises:
    ValueError: naming file and line, if a row or the file can't be read.
  """
  path = epath.Path(path)
  if not path.name.endswith(SUFFIXES):
    raise ValueError(f'{path}: the name must end in .jsonl or .jsonl.gz')
  if not path.exists() or path.is_dir():
    raise ValueError(f'{path}: there is no such file; check the path')
  label = stem(path)
  problems = []
  lines: dict[str, int] = {}
  try:
    for number, row in records.read_jsonl(path):
      try:
        problem = row_fn(row, f'{id_prefix}{label}/{number}', task or label)
      except ValueError as e:
        raise ValueError(f'{path}, line {number}: {e}') from None
      if (first := lines.setdefault(problem.id, number)) != number:
        raise ValueError(
          f'{path}, line {number}: the id {problem.id!r} is that of line'
          f' {first} too; ids must be unique: change one or leave ids out'
        )
      problems.append(problem)
  except (OSError, EOFError, zlib.error, gzip.BadGzipFile) as e:
    raise ValueError(
      f'{path}: damaged or not readable ({e}); copy or download it again'
    ) from None
  if not problems:
    raise ValueError(f'{path}: there are no rows in this file')
  return problems


def find_splits(folder: epath.PathLike) -> dict[str, epath.Path]:
  """The split files of a folder: split -> file."""
  found = {}
  for split in source.SPLITS:
    files = [epath.Path(folder) / f'{split}{suffix}' for suffix in SUFFIXES]
    there = [file for file in files if file.exists()]
    if len(there) > 1:
      raise ValueError(
        f'{folder}: both {there[0].name} and {there[1].name} are there;'
        f' remove one'
      )
    if there:
      found[split] = there[0]
  if not found:
    raise ValueError(
      f'{folder}: no train.jsonl, validation.jsonl or test.jsonl (or .gz) in'
      f' this folder; name a file, or name the files so'
    )
  return found


@dataclasses.dataclass(frozen=True)
class JsonlSource(source.SplitSource):
  """Problems of a file or folder.

  In a folder, `{train,validation,test}.jsonl[.gz]` are the splits; one that is
  missing (and, for a single file, validation and test) is a share of the train
  rows, chosen by a hash of the id. Problems come in the order of that hash, so
  that `num_train=n` is a random subset and a larger n only adds to it.

  Raises (on first use): ValueError for anything that can't be read, naming
    file, line and what to write.
  """

  path: epath.PathLike  # file or folder
  _: dataclasses.KW_ONLY
  name: str = ''  # default: the stem; the task of rows that name none
  num_train: int | None = None  # at most so many; None: all
  num_validation: int | None = None
  num_test: int | None = None
  num_shots: int = 0  # per task, held out of all splits
  seed: int = 0  # of the splits and the order
  test_path: epath.PathLike | None = None  # a file that is the test split
  validation_fraction: float = 0.1  # of train, where no such file is given
  test_fraction: float = 0.1
  layout: str = 'plain'  # or 'gsm8k', ...: see `layouts.row_fn`
  question_field: str = 'question'  # the fields of layout 'plain'
  answer_field: str | None = 'answer'  # None: there is no gold answer
  solution_field: str = 'solution'
  id_field: str = 'id'
  task_field: str = 'task'

  def __post_init__(self):
    if not self.name:
      object.__setattr__(self, 'name', stem(self.path))

  def _row_fn(self) -> layouts.RowFn:
    if self.layout != 'plain':
      return layouts.row_fn(self.layout)
    fields = dataclasses.fields(layouts.PlainRow)
    return layouts.PlainRow(**{f.name: getattr(self, f.name) for f in fields})

  def read(self) -> source.Splits:
    path = epath.Path(self.path)
    is_folder = path.is_dir()
    files = find_splits(path) if is_folder else {'train': path}
    if self.test_path is not None:
      if 'test' in files:
        raise ValueError(
          f'{path} has a test file and test_path={self.test_path} is given;'
          f' leave out one'
        )
      files['test'] = epath.Path(self.test_path)
    row_fn = self._row_fn()
    prefix = f'{self.name}/' if is_folder else ''
    by_split = {
      split: load(file, row_fn=row_fn, task=self.name, id_prefix=prefix)
      for split, file in files.items()
    }
    return split_problems(
      by_split,
      name=self.name,
      seed=self.seed,
      validation_fraction=self.validation_fraction,
      test_fraction=self.test_fraction,
      num_train=self.num_train,
      num_validation=self.num_validation,
      num_test=self.num_test,
      num_shots=self.num_shots,
    )


def split_problems(
  by_split: dict[str, list[records.Problem]],
  *,
  name: str,
  seed: int = 0,
  validation_fraction: float = 0.1,
  test_fraction: float = 0.1,
  num_train: int | None = None,
  num_validation: int | None = None,
  num_test: int | None = None,
  num_shots: int = 0,
) -> source.Splits:
  """Carves, orders by hash and checks; see `JsonlSource` for the arguments.

  Problems under 'shots', where there are any, are the shots, in their order.
  """
  carved = splits.carve(
    by_split,
    name=name,
    seed=seed,
    validation_fraction=validation_fraction,
    test_fraction=test_fraction,
  )
  ordered = {
    split: sorted(problems, key=lambda p: splits.unit_hash(seed, p.id))
    for split, problems in carved.items()
  }
  return splits.assemble(
    {**ordered, 'shots': by_split.get('shots', [])},
    name=name,
    num_train=num_train,
    num_validation=num_validation,
    num_test=num_test,
    num_shots=num_shots,
  )
