"""Where numbers go: JSONL and TensorBoard files, and the console.

In: scalars by name and step. Out: `metrics/<stage>.jsonl`, TensorBoard
events, progress bars. What is *not* here: what to measure.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time

from etils import epath
import rich
from rich import console as rich_console, progress as rich_progress
import tensorboardX

_COPY_SECONDS = 60


class Writer:
  """Appends scalars of one stage to a JSONL file and to TensorBoard.

  A resumed run appends too: readers take the last row of a step. What lies in
  a bucket cannot grow: it is written here, and copied there once a minute.
  """

  def __init__(self, directory: epath.PathLike, stage: str):
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    self._bucket: epath.Path | None = None
    if '://' in os.fspath(directory):
      self._bucket, self._copied = directory, time.monotonic()
      self._scratch = tempfile.TemporaryDirectory()
      directory = epath.Path(self._scratch.name)
      if (earlier := self._bucket / f'{stage}.jsonl').exists():
        earlier.copy(directory / earlier.name)
    self._jsonl = (directory / f'{stage}.jsonl').open('a')
    self._board = tensorboardX.SummaryWriter(
      str(directory / stage), write_to_disk=True
    )

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes one row; values are Python floats or 0-d arrays."""
    row = {'step': step, 'time': round(time.time(), 3)}
    row |= {name: float(value) for name, value in scalars.items()}
    self._jsonl.write(json.dumps(row) + '\n')
    self._jsonl.flush()
    for name, value in scalars.items():
      self._board.add_scalar(name, float(value), step)
    if self._bucket and time.monotonic() > self._copied + _COPY_SECONDS:
      self._copy(self._bucket)

  def _copy(self, bucket: epath.Path) -> None:
    self._board.flush()
    folder = pathlib.Path(self._scratch.name)
    for path in folder.rglob('*'):
      if path.is_file():
        target = bucket / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        epath.Path(path).copy(target, overwrite=True)
    self._copied = time.monotonic()

  def close(self) -> None:
    """Ends the files; in a bucket, they are there then."""
    self._jsonl.close()
    self._board.close()
    if self._bucket:
      self._copy(self._bucket)
      self._scratch.cleanup()


class NoWriter(Writer):
  """Writes nothing: among several processes, one writes for all."""

  def __init__(self):
    pass

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    pass

  def close(self) -> None:
    pass


class Progress:
  """A bar with rate and time left; nothing when stderr is no terminal."""

  def __init__(self, bar: rich_progress.Progress | None, task):
    self._bar, self._task = bar, task

  def advance(self, count: float = 1, note: str = '') -> None:
    """Moves the bar; `note` is shown at its end."""
    if self._bar is not None:
      self._bar.update(self._task, advance=count, note=note)


@contextlib.contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Progress]:
  """Shows a progress bar on stderr while the context lasts.

  Args:
    what: what is under way, e.g. 'iteration 1: generate'.
    total: items in all.
    done: items that an earlier, killed run completed.
  """
  if not sys.stderr.isatty():
    yield Progress(None, None)
    return
  columns = (
    rich_progress.TextColumn('{task.description}'),
    rich_progress.BarColumn(),
    rich_progress.MofNCompleteColumn(),
    rich_progress.TaskProgressColumn(show_speed=True),
    rich_progress.TimeElapsedColumn(),
    rich_progress.TextColumn('left'),
    rich_progress.TimeRemainingColumn(),
    rich_progress.TextColumn('{task.fields[note]}'),
  )
  # The log's console, if it shows on stderr too: bars and log lines then know
  # each other.
  console = rich.get_console()
  if not console.stderr:
    console = rich_console.Console(stderr=True)
  with rich_progress.Progress(*columns, console=console) as bar:
    task = bar.add_task(what, total=total, completed=done, note='')
    yield Progress(bar, task)
