"""Worker processes of `math.MathGrader`: `python -m` this, see `forkserver`.

In: {"same": [a, b]} or {"readable": a} with canonical answers that passed the
screen; out: true or false. What is *not* here: anything that runs in the host.
"""

from collections.abc import Mapping
import logging
import sys
from typing import Any

from restem_jax.rewards import (
  answers,
  equivalence,
  forkserver,
  symbolic,
)

# sympy takes them where it can; they would only make the processes large.
_WITHOUT = ('numpy', 'scipy')

_late_imports: list[str] = []


def handle(request: Mapping[str, Any]) -> bool:
  """Answers one request; raises what the computation raises."""
  _late_imports.clear()
  match request:
    case {'same': [str(a), str(b)]}:
      same = equivalence.compare(
        answers.parse(a), answers.parse(b), symbolic.same
      )
    case {'readable': str(a)}:
      same = all(map(symbolic.readable, answers.leaves(answers.parse(a))))
    case _:
      raise ValueError('unknown request')
  if not same and _late_imports:
    # A worker can't open files, and libraries swallow that error: the answer
    # is no answer.
    raise ImportError(_late_imports[0])
  assert same is not None
  return same


def _note_import(event: str, arguments: tuple[Any, ...]) -> None:
  if event == 'import' and arguments[0] not in _WITHOUT:
    _late_imports.append(str(arguments[0]))


def main() -> None:
  """Warms up and serves until the host is gone."""
  for name in _WITHOUT:
    sys.modules[name] = None  # type: ignore[assignment]
  logging.disable()
  sys.setrecursionlimit(5000)
  symbolic.warm_up()
  sys.addaudithook(_note_import)
  forkserver.serve(handle)


if __name__ == '__main__':
  main()
