r"""Finds the final answer in a completion.

In: the text a model wrote; out: the answer as written, or None when there is
none that can be judged. What is *not* here: what the answer means
(`normalize`, `answers`).

Every extractor is a plain function `text -> str | None`, so that a recipe can
bind it: `MathGrader.extract = @extraction.boxed`, or several in turn:
`@extraction.first_of()` with `first_of.extracts = [@extraction.boxed, ...]`.

An extractor answers None rather than choose for the model: when the final
statement holds more than one distinct answer, or an answer longer than
MAX_CHARS. All run in time linear in the text.
"""

from collections.abc import Callable, Iterable, Sequence
import itertools
import re

Extract = Callable[[str], str | None]

MAX_CHARS = 300

_FINAL = re.compile(
  r'final\s+answer|answer\s*(?:is\b|:|=)|answer\s*\*\*\s*:', re.IGNORECASE
)
_BOX = re.compile(r'\\(?:boxed|fbox)(?![A-Za-z])\s*')
_BARE = re.compile(r'[^\s${}]+')
# Between the boxes of a list: `$, $`, `\text{ and }`.
_MAX_LISTED, _MAX_BETWEEN = 16, 80
_FILL = r'(?:[\s$]|\\[()\[\],;: ]|\\q?quad)*'
_BETWEEN = re.compile(
  rf'{_FILL}([,;]?){_FILL}(?:\\text\{{)?\s*(and|or)?\s*\}}?{_FILL}'
)
_BRACES = re.compile(r'\\.|[{}]', re.DOTALL)
_PROMPT = re.compile(
  r'^(?:[*_#>\s]*(?:the\s+)?(?:final\s+)?(?:answer|a)[*_\s]*:)?[*_\s]*',
  re.IGNORECASE,
)
_ANSWER_IS = re.compile(
  r'answer\s*\**\s*(?:is\s*:?|:|=)\**[ \t]*([^\n]*)', re.IGNORECASE
)
_HASHES = re.compile(r'####[ \t]*([^\n]*)')
_HOPE = re.compile(r'[.\s]*I hope (?:it|this) is correct.*$', re.IGNORECASE)


def boxed(text: str) -> str | None:
  r"""The content of the last `\boxed{}` or `\fbox{}` (also `\boxed 4`).

  Looked for after the last final-answer marker ("the answer is", "final
  answer", "answer:") when there is a box there, else on the last line that
  has one. More than one distinct box in that place is no answer, unless only
  commas, `and` and `or` stand between them: those are a list.
  """
  boxes = list(_boxes(text))
  if not boxes:
    return None
  marks = [m.end() for m in _FINAL.finditer(text)]
  final = marks[-1] if marks else len(text)
  line = text.rfind('\n', 0, boxes[-1][0]) + 1
  start = final if boxes[-1][0] >= final else line
  boxes = [box for box in boxes if box[0] >= start]
  return _single(content for _, _, content in boxes) or _single(
    _listed(text, boxes)
  )


def hashes(text: str) -> str | None:
  """What follows `####` on its line (GSM8K's form)."""
  return _single(m.group(1) for m in _HASHES.finditer(text))


def answer_is(text: str) -> str | None:
  """The rest of the line after the last "answer is" or "answer:"."""
  found = [m.group(1) for m in _ANSWER_IS.finditer(text)]
  return _single(_HOPE.sub('', rest) for rest in found[-1:])


def last_line(text: str) -> str | None:
  """The last line that is not blank, without a leading "Answer:"."""
  return _line(text, -1)


def first_line(text: str) -> str | None:
  """The first line that is not blank, without a leading "Answer:"."""
  return _line(text, 0)


def first_of(extracts: Sequence[Extract]) -> Extract:
  """An extractor that tries others in turn: the first answer counts."""
  if not extracts:
    raise ValueError(
      'first_of.extracts is empty: name at least one extractor, such as '
      '[@extraction.boxed]'
    )

  def extract(text: str) -> str | None:
    return next((a for e in extracts if (a := e(text)) is not None), None)

  return extract


def _line(text: str, which: int) -> str | None:
  lines = [line for line in text.split('\n') if line.strip()]
  if not lines:
    return None
  line = lines[which]
  if answer := answer_is(line):
    return answer
  return _single([_PROMPT.sub('', line, count=1)])


def _single(candidates: Iterable[str]) -> str | None:
  """The one candidate, or None for none, several or a long one."""
  cleaned = [_clean(c) for c in candidates]
  distinct = {''.join(c.split()) for c in cleaned}
  if len(distinct) != 1:
    return None
  answer = cleaned[-1]
  return answer if 0 < len(answer) <= MAX_CHARS else None


def _listed(text: str, boxes: Sequence[tuple[int, int, str]]) -> Iterable[str]:
  r"""`\boxed{1}, \boxed{2} and \boxed{3}` as one answer."""
  if len(boxes) > _MAX_LISTED:
    return
  answer = boxes[0][2]
  for (_, end, _), (start, _, content) in itertools.pairwise(boxes):
    m = _BETWEEN.fullmatch(text[end:start][:_MAX_BETWEEN])
    if m is None or not (word := m[2] or m[1]):
      return
    answer += f' {word} {content}' if word.isalpha() else f', {content}'
  yield answer


def _clean(text: str) -> str:
  text = text.strip().strip('*`').strip()
  if text.endswith('.') and not text.endswith(('\\.', '..')):
    text = text[:-1].rstrip()
  return text


def _boxes(text: str) -> Iterable[tuple[int, int, str]]:
  """(start, end, content) of each outermost box, in order; unclosed: none."""
  closing = _matching_braces(text)
  end = 0
  for m in _BOX.finditer(text):
    if m.start() < end:
      continue
    at = m.end()
    if text.startswith('{', at):
      if at in closing:
        end = closing[at] + 1
        yield m.start(), end, text[at + 1 : end - 1]
    elif bare := _BARE.match(text, at):
      end = bare.end()
      yield m.start(), end, bare.group()


def _matching_braces(text: str) -> dict[int, int]:
  r"""Position of each `{` to that of its `}`; `\{` and `\}` don't count."""
  closing: dict[int, int] = {}
  opened: list[int] = []
  for m in _BRACES.finditer(text):
    if m.group() == '{':
      opened.append(m.start())
    elif m.group() == '}' and opened:
      closing[opened.pop()] = m.start()
  return closing
