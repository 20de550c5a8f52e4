"""Where numbers go: JSONL and TensorBoard files, and the console.

In: scalars by name and step. Out: `metrics/<stage>.jsonl`, TensorBoard
events, progress bars. What is *not* here: what to measure.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import sys
import time

from etils import epath
import rich
from rich import console as rich_console, progress as rich_progress
import tensorboardX


class Writer:
  """Appends scalars of one stage to a JSONL file and to TensorBoard.

  A resumed run appends too: readers take the last row of a step.
  """

  def __init__(self, directory: epath.PathLike, stage: str):
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
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

  def close(self) -> None:
    self._jsonl.close()
    self._board.close()


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
