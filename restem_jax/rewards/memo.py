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

VERSION = 3  # of the verdicts; raise it when the grader's rules change


class Memo:
  """A dictionary, with a file behind it when there is a path."""

  def __init__(self, path: str | os.PathLike[str] | None = None):
    self._outcomes: dict[tuple[str, str], str] = {}
    self._path: pathlib.Path | None = None
    if path is not None:
      self.keep_in(path)

  @property
  def has_file(self) -> bool:
    """Whether what is put is kept on disk."""
    return self._path is not None

  def keep_in(self, path: str | os.PathLike[str]) -> None:
    """Takes over what a file holds, and keeps in it what is put from now.

    The file is open for as long as a line takes: few are written.
    """
    self._path = pathlib.Path(path)
    if self._path.exists():
      self._load(self._path)

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
    if on_disk and self._path is not None:
      row = {'v': VERSION, 'a': key[0], 'b': key[1], 'outcome': outcome}
      self._append(json.dumps(row, separators=(',', ':')) + '\n')

  def _append(self, text: str) -> None:
    assert self._path is not None
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with self._path.open('ab') as file:
      file.write(text.encode())

  def _load(self, path: pathlib.Path) -> None:
    data = path.read_bytes()
    for line in data.split(b'\n'):
      try:
        row = json.loads(line)
        if row['v'] == VERSION:
          key = (str(row['a']), str(row['b']))
          self._outcomes[key] = str(row['outcome'])
      except (ValueError, KeyError, TypeError):
        continue  # torn by a kill; its verdict is reached again
    if data and not data.endswith(b'\n'):
      self._append('\n')
