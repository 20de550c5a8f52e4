"""What a source of problems is.

In: nothing. Out: the interface `Source`, and `SplitSource`, its common part.
Where problems come from is not here: `data.jsonl` reads files,
`data.seqio_tasks` SeqIO Tasks and Mixtures; nor is how splits are cut
(`data.splits`).
"""

import abc
import dataclasses
import functools
import hashlib
import json
import logging
from typing import Protocol, runtime_checkable

from restem_jax.records import Problem

_logger = logging.getLogger(__name__)

SPLITS = ('train', 'validation', 'test')


@runtime_checkable
class Source(Protocol):
  """Anything that gives problems; compared by fingerprint across restarts."""

  @property
  def name(self) -> str: ...

  def load(self, split: str) -> list[Problem]: ...

  def shots(self, task: str) -> list[Problem]: ...

  def fingerprint(self) -> str: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits:
  """Problems by split; no question is in two of them."""

  train: tuple[Problem, ...]
  validation: tuple[Problem, ...]
  test: tuple[Problem, ...]
  shots: tuple[Problem, ...]  # held out of train for few-shot prompts

  def fingerprint(self) -> str:
    """sha256 (hex) of the canonical JSON of all problems, shots included."""
    digest = hashlib.sha256()
    for field in dataclasses.fields(self):
      digest.update(f'{field.name}\n'.encode())
      for problem in getattr(self, field.name):
        line = json.dumps(dataclasses.asdict(problem), sort_keys=True)
        digest.update(line.encode() + b'\n')
    return digest.hexdigest()


class SplitSource(abc.ABC):
  """A source that reads all its splits at once, on first use."""

  name: str
  num_shots: int

  @abc.abstractmethod
  def read(self) -> Splits:
    """Reads and checks everything; called once."""

  @functools.cached_property
  def splits(self) -> Splits:
    splits = self.read()
    _logger.info(
      '%s: %d train, %d validation, %d test problems, %d shots',
      self.name,
      len(splits.train),
      len(splits.validation),
      len(splits.test),
      len(splits.shots),
    )
    return splits

  def load(self, split: str) -> list[Problem]:
    """The problems of one of SPLITS, in an order that never changes."""
    if split not in SPLITS:
      raise ValueError(
        f'{self.name}: no split {split!r}; write one of {SPLITS}'
      )
    return list(getattr(self.splits, split))

  def shots(self, task: str) -> list[Problem]:
    """The `num_shots` problems kept out of all splits for prompts of `task`."""
    found = [p for p in self.splits.shots if p.task == task]
    if self.num_shots and not found:
      tasks = sorted({p.task for p in self.splits.shots})
      raise ValueError(
        f'{self.name}: no shots for task {task!r} (shots are there for'
        f" {tasks}); name one of these, or give the prompt template's"
        f' shots_path'
      )
    return found

  def fingerprint(self) -> str:
    """sha256 (hex) over the problems of all splits."""
    return self.splits.fingerprint()
