r"""The usual notation for what can be written in several.

In: an answer in ASCII and LaTeX, without delimiters around it; out: the same
with one notation for each of

  `\\frac` (escaped twice)        `\frac`
  `{1\over2}` `{n\choose k}`      `\frac{1}{2}` `\binom{n}{k}`
  `0.\dot{1}2\dot{3}` `0.(3)` `0.333...`  `0.\overline{123}`
  `101_{\text{two}}` `(101)_2` `101 base 2`  `101_{2}`
  `6.02 x 10^23` `3{,}14`         `6.02\cdot10^23` `3.14`
  `\text{The answer is }5` `Option B`  `5` `B`
  `USD 5` `5^\circ\text{C}`       `5` `5^\circ`

What is *not* here: spelling (`normalize`).
"""

import re

_ESCAPED = re.compile(r'\\\\(?=[A-Za-z]{2}|[{}%$])')
_BRACE = re.compile(r'(?<!\\)[{}]')
_INFIX = re.compile(r'\\(over|choose)(?![A-Za-z])')
_ROW_SPACE = re.compile(r'(\\\\)\s*\[[0-9.]+\s*(?:pt|em|ex|mm|cm)\]')
_ROW_END = re.compile(r'\\cr(?![A-Za-z])')

_BAR = re.compile(
  r'(?<=[0-9.])\\(?:bar|dot|overline)\s*(?:\{([0-9]+)\}|([0-9]))'
)
_TWO_DOTS = re.compile(
  r'(?<=[0-9.])\\dot\s*\{?([0-9])\}?([0-9]*)\\dot\s*(?:\{([0-9])\}|([0-9]))'
)
# Not `2.5(3)`, a product.
_BRACKETED = re.compile(
  r'(?<![0-9.])([0-9]{1,20}\.)\(([0-9]{1,20})\)(?![\^!(])'
)
# One digit three times, or more digits twice.
_GOES_ON = re.compile(
  r'(?<![0-9.])([0-9]{0,20}\.[0-9]{0,12}?)(?:([0-9])\2{2,}|([0-9]{2,12}?)\3+)'
  r'\s*(?:\\[lc]?dots(?![A-Za-z])|\.{3})'
)
_DOTS = re.compile(r'\.{3,}')

_BASES = {
  'two': '2', 'three': '3', 'four': '4', 'five': '5', 'six': '6', 'seven': '7',
  'eight': '8', 'nine': '9', 'ten': '10', 'twelve': '12', 'sixteen': '16',
}  # fmt: skip
_NUMERAL_BASE = re.compile(
  r'(?<=[0-9A-F)])_\s*\{\s*(?:\\(?:text|mathrm)\s*\{)?\s*\(?\s*([a-z]+|[0-9]+)'
  r'\s*\)?\s*\}\}?'
)
_BASE = re.compile(
  r'(?<=[0-9A-F])\s*\(?(?:\\text\s*\{)?[\s(]*(?:in\s+)?base[\s~-]*\}?\s*'
  r'([a-z]+|[0-9]+)[)}]*$'
)
_BRACKETS_BASE = re.compile(r'(?<![A-Za-z0-9_}])\(([0-9A-F]+)\)(?=_)')

_TIMES_TEN = re.compile(r'(?<=[0-9])\s*[xX]\s*(?=10\s*\^)')
_DECIMAL_MARK = re.compile(r'(?<=[0-9])\{[.,]\}(?=[0-9])')
_CURRENCY = re.compile(
  r'^(?:\\text\s*\{\s*)?(?:USD?|EUR|GBP|INR|Rs\.?|\\textdollar|\\pounds)'
  r'\s*\}?\s*(?=\\?\$?\s*[0-9.])'
)
_TEMPERATURE = re.compile(
  r'(\^\s*\{?\s*\\circ\s*\}?|\\degree)\s*(?:\\(?:text|mathrm)\s*\{)?\s*[CF]\}?'
  r'(?=[\s.]*$)'
)
_PHRASE = re.compile(
  r'^\s*(?:\\text[a-z]*\s*\{\s*)?(?:(?:so|thus|hence|therefore),?\s+)?'
  r'(?:(?:the|my)\s+)?(?:(?:final|correct)\s+)?'
  r'answer(?:\s+is|\s*[:=])\s*:?\s*(\}?)\s*(?=\S)',
  re.IGNORECASE,
)
_CHOICE = re.compile(
  r'^\s*(\\text\s*\{\s*)?(?:option|choice)\s+(?=\(?[A-J]\)?\}?\.?$)',
  re.IGNORECASE,
)
_NUMBER_IN_TEXT = re.compile(r'\\text\s*\{\s*([0-9][^{}]*)\}')
_LETTER = re.compile(r'([A-J])\)')


def unescaped(text: str) -> str:
  r"""`\frac` for `\\frac`, which outside a matrix can't begin a row."""
  if '\\\\begin' in text:
    return text.replace('\\\\', '\\')
  if '\\begin' in text:
    return text
  return _ESCAPED.sub(lambda _: '\\', text)


def usual(text: str) -> str:
  """The notation that `normalize` goes on with."""
  if m := _LETTER.fullmatch(text) or _NUMBER_IN_TEXT.fullmatch(text):
    return m[1]
  if m := _PHRASE.match(text):
    # `\text{The answer is 5}` keeps its \text.
    rest = text[m.end() :]
    text = rest if m[1] or '\\text' not in m[0] else f'\\text{{{rest}'
  text = _CHOICE.sub(r'\1', text)
  text = _CURRENCY.sub('', text)
  text = _TIMES_TEN.sub(r'\\cdot ', text)
  text = _TEMPERATURE.sub(r'\1', text)
  if '_' in text or 'base' in text:
    text = _numeral(text)
  if '\\' in text:
    text = _infix(_ROW_END.sub(r'\\\\', _ROW_SPACE.sub(r'\1', text)))
  return _repeating(text)


def decimal_mark(text: str) -> str:
  """`3.14` for `3{,}14`, after the commas of thousands have gone."""
  return _DECIMAL_MARK.sub('.', text)


def _repeating(text: str) -> str:
  if '.' not in text:
    return text
  text = _TWO_DOTS.sub(
    lambda m: rf'\overline{{{m[1]}{m[2]}{m[3] or m[4]}}}', text
  )
  if text.count('\\dot') - text.count('\\dots') <= 1:
    text = _BAR.sub(r'\\overline{\1\2}', text)
  text = _BRACKETED.sub(r'\1\\overline{\2}', text)
  text = _GOES_ON.sub(r'\1\\overline{\2\3}', text)
  if text.startswith('.\\overline'):
    text = '0' + text
  return _DOTS.sub(r'\\dots ', text)


def _numeral(text: str) -> str:
  text = _BRACKETS_BASE.sub(r'\1', text)
  return _BASE.sub(_subscript, _NUMERAL_BASE.sub(_subscript, text))


def _subscript(m: re.Match[str]) -> str:
  base = _BASES.get(m[1], m[1])
  return f'_{{{base}}}' if base.isdigit() else m[0]


def _infix(text: str) -> str:
  r"""`\frac{a}{b}` for `{a\over b}`, and for `a\over b` as a whole."""
  for _ in range(text.count('\\over') + text.count('\\choose')):
    m = _INFIX.search(text)
    if m is None:
      break
    start, end = _group_around(text, m.start(), m.end())
    above, below = text[start : m.start()], text[m.end() : end]
    name = 'frac' if m[1] == 'over' else 'binom'
    new = rf'\{name}{{{above.strip()}}}{{{below.strip()}}}'
    text = text[: max(start - 1, 0)] + new + text[end + 1 :]
  return text


def _group_around(text: str, left: int, right: int) -> tuple[int, int]:
  """Bounds of what the braces around text[left:right] hold."""
  start, end = 0, len(text)
  depth = 0
  for m in reversed(list(_BRACE.finditer(text, 0, left))):
    depth += 1 if m[0] == '}' else -1
    if depth < 0:
      start = m.end()
      break
  depth = 0
  for m in _BRACE.finditer(text, right):
    depth += 1 if m[0] == '{' else -1
    if depth < 0:
      end = m.start()
      break
  return start, end
