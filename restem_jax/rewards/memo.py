"""Verdicts already reached, kept in a file so that a restart repeats none.

In and out: outcome strings by unordered pair of canonical answers. What is
*not* here: which outcomes are worth keeping (`math` decides).

The file is JSONL, appended to and never rewritten; a line torn by a kill is
skipped when it is read and closed off before the next is written. A line is one
write, so that an evaluation beside a run may share its file. Lines of another VERSION of the grader are ignored.
"""

import json
import os
import pathlib
from typing import TextIO

VERSION = 2  # of the verdicts; raise it when the grader's rules change


class Memo:
  """A dictionary, with a file behind it when there is a path."""

  def __init__(self, path: str | os.PathLike[str] | None = None):
    self._outcomes: dict[tuple[str, str], str] = {}
    self._file: TextIO | None = None
    if path is not None:
      self.keep_in(path)

  @property
  def has_file(self) -> bool:
    """Whether what is put is kept on disk."""
    return self._file is not None

  def keep_in(self, path: str | os.PathLike[str]) -> None:
    """Takes over what a file holds, and keeps in it what is put from now."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    self._file = path.open('a+', encoding='utf-8', newline='\n')
    self._load(self._file)

  def __len__(self) -> int:
    return len(self._outcomes)

  def get(self, key: tuple[str, str]) -> str | None:
    return self._outcomes.get(key)

  def put(
    self, key: tuple[str, str], outcome: str, *, on_disk: bool = True
  ) -> None:
    """Remembers an outcome; by default on disk before this returns."""
    if self._outcomes.get(key) == outcome:
      return
    self._outcomes[key] = outcome
    if on_disk and self._file is not None:
      row = {'v': VERSION, 'a': key[0], 'b': key[1], 'outcome': outcome}
      self._file.write(json.dumps(row, separators=(',', ':')) + '\n')
      self._file.flush()

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
      self._file = None

  def _load(self, file: TextIO) -> None:
    file.seek(0)
    line = '\n'
    for line in file:
      try:
        row = json.loads(line)
        if row['v'] == VERSION:
          key = (str(row['a']), str(row['b']))
          self._outcomes[key] = str(row['outcome'])
      except (ValueError, KeyError, TypeError):
        continue  # torn by a kill; its verdict is reached again
    if not line.endswith('\n'):
      file.write('\n')
