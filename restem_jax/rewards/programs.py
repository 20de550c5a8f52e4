"""Finds the program in a completion.

In: the text a model wrote; out: Python source, or None when there is none.
Plain functions `text -> str | None`, so that a recipe can bind one:
`CodeGrader.extract = @programs.fenced`. Nothing is parsed here: model text is
only compiled inside the sandbox. All run in time linear in the text.
"""

from collections.abc import Callable
import re

Extract = Callable[[str], str | None]

_FENCE = re.compile(r'^[ \t]*```[ \t]*(\w*)[^\n]*$', re.MULTILINE)
_PYTHON = ('python', 'py', 'python3')


def fenced(text: str) -> str | None:
  """The longest block fenced with ``` and marked python, else unmarked.

  The longest, because models show how to call the program in a second block;
  of equally long ones the last. A block that never closes goes to the end: a
  stop string may have cut its fence off.
  """
  blocks: dict[bool, list[str]] = {True: [], False: []}
  opened: tuple[str, int] | None = None
  for mark in _FENCE.finditer(text):
    if opened is None:
      opened = (mark[1].lower(), mark.end() + 1)
    else:
      _keep(blocks, opened[0], text[opened[1] : mark.start()])
      opened = None
  if opened is not None:
    _keep(blocks, opened[0], text[opened[1] :])
  found = blocks[True] or blocks[False]
  return max(reversed(found), key=len) if found else None


def _keep(blocks: dict[bool, list[str]], language: str, code: str) -> None:
  if (language in _PYTHON or not language) and code.strip():
    blocks[bool(language)].append(code)


def begin_done(text: str) -> str | None:
  """What stands between [BEGIN] and [DONE], MBPP's form.

  Either may be missing: [BEGIN] when the prompt ends with it, [DONE] when it
  was the stop string.
  """
  _, _, after = text.rpartition('[BEGIN]')
  code, _, _ = after.partition('[DONE]')
  return code if code.strip() else None


def raw(text: str) -> str | None:
  """All of it, as HumanEval's completions are."""
  return text if text.strip() else None
