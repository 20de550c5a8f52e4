r"""One spelling for each answer.

In: an answer as written, by a model or a data set; out: a canonical LaTeX
string. Two answers with the same canonical string are the same answer. What
is *not* here: structure and values (`answers`, `rational`), and what can be
written in several notations (`notation`, `characters`).

Only spelling is touched: `\left`, spaces (`1 2` stays apart from `12`),
`\dfrac`, `\frac12`, units in `\text{}` or from a list, `$`, `\%`, degrees,
thousands separators (`{,}` and `\,`). All patterns are linear.
"""

import functools
import re

from restem_jax.rewards import characters, notation

_PLAIN = re.compile(r'-?(?:0|[1-9][0-9]{0,17})')

_WRAPPERS = (
  re.compile(r'\$\$?([^$]*)\$\$?', re.DOTALL),
  re.compile(r'\\\((.*)\\\)', re.DOTALL),
  re.compile(r'\\\[(.*)\\\]', re.DOTALL),
  re.compile(r'\\(?:boxed|fbox)\s*\{(.*)\}', re.DOTALL),
  re.compile(r'\*\*((?:(?!\*\*).)+)\*\*', re.DOTALL),
  re.compile(r'"([^"]*)"|`([^`]*)`|\'([^\']*)\'', re.DOTALL),
)
_BRACES = re.compile(r'(?<!\\)[{}]')
_SPACING = re.compile(
  r'\\(?:left|right|displaystyle|textstyle|limits|big|Big|bigg|Bigg|bigl|bigr'
  r'|Bigl|Bigr|mathstrut|underline|[Ll]arge|huge'
  r'|(?:text)?color\s*\{[^{}]*\})(?![A-Za-z])\.?|(?<!\\)\\!|\\phantom(?:\{[^{}]*\}|\s*.)'
)
# Not behind a lone 0: `0{,}125` is a decimal.
_THOUSANDS = re.compile(
  r'(?<=[0-9])(?<![^0-9]0)(?<!^0)(?:\{,\}|\\,|,\\!|,?\\!,?)\s*(?=[0-9]{3}(?![0-9]))'
)
# `1,000` alone or after `=`; with a space, `32, 349`, it is a list.
_GROUPED = re.compile(
  r'(?:[^=]*=\s*)?-?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?\s*%?\.?'
)
# `1,000` among others: at least one group begins with 0.
_GROUP = re.compile(
  r'(?<![0-9.,])[1-9][0-9]{0,2}(?=(?:,[0-9]{3})*,0)(?:,[0-9]{3})+'
  r'(?![0-9]|,\S)'
)
_SPACED_COMMA = re.compile(r'[,;]\s+')
_SPACES = re.compile(
  r'(?<!\\)\\(?:[,;: >]|$)|~|\\q?quad|\\hspace\{[^{}]*\}|\s+'
)
_TEXT = re.compile(
  r'\\(?:text(?:bf|it|rm|sf|normal)?|mbox|hbox|mathrm|mathbf|mathit|mathsf'
  r'|operatorname)\s*\{([^{}]*)\}(\s*\^\s*\{?[23]\}?)?'
)
_ROMAN = re.compile(r'\{\\(?:rm|bf|it)\s+([^{}]*)\}')
_UNIT_TEXT = re.compile(r'[A-Za-z\s./\'-]{1,40}')
_NO_UNIT = frozenset(
  re.findall(
    r'\S+',
    'and or not no mod base if for when where with is than to by minus plus '
    'times '
    'half thousand million billion trillion dozen hundred hundreds tens tenths '
    'hundredth hundredths thousandths pi i e odd even pair pairs '
    # Parts and operations.
    'quarter quarters third thirds fourth fourths fifth fifths sixth sixths '
    'seventh sevenths eighth eighths ninth ninths tenth halves squared cubed '
    'factorial inverse root over choose percent double twice triple '
    'reciprocal remainder '
    # What turns a value into another one.
    'less more least most fewer than not negative positive below above under '
    'before after increase decrease loss gain profit off up down left right '
    'north south east west bc ad bce ce am pm noon midnight',
  )
)
# `3 PM`, `3\\text{ p.m.}`: part of the value.
_CLOCK = re.compile(
  r'(?<=[0-9])\s*(?:\\text\s*\{\s*)?([aApP])\.?\s?[mM]\b\.?\s*\}?(?![A-Za-z(^])'
)
# Of inequalities: `or` is a union and `and` an intersection.
_INEQUALITY = re.compile(r'[<>]|\\(?:le|ge|ne|in)(?![A-Za-z])')
_RELATION = re.compile(rf'=|{_INEQUALITY.pattern}')
_LOGIC = re.compile(r'\\(?:(vee)|wedge)(?![A-Za-z])')
# What may stand behind a unit that is left out.
_AFTER_UNIT = re.compile(
  r'\s*(?:$|[,;:.)\]}=<>+\-/*%&$]|\\(?:[,;!}\\)\]]|(?:cdot|times|div|pm|le|ge|leq'
  r'|geq|ne|neq|approx|quad|qquad|right|text|mbox|cup|end|rangle)(?![A-Za-z])))'
)
# Names that \text or \mathrm may wrap, and `minus` and the like.
_SYMBOLS = frozenset(
  re.findall(
    r'\S+',
    're im sin cos tan cot sec csc log ln exp pi mod min max gcd lcm det i e '
    'and or minus plus times',
  )
)
_UNITS = re.compile(
  r'(?:(?<=[0-9)}])|(?<=\\pi)|(?<=\\pi ))\s*(?:(?:square|cubic|sq\.?|cu\.?)\s+)?'
  r'(?:degrees?|cm|mm|km|kg|ft|mph|cents?|dollars?|bucks|usd|euros?|yuan'
  r'|(?:centi|milli|kilo)?met(?:er|re)s?|inch(?:es)?|feet|foot|yards?|miles?'
  r'|(?:milli|kilo)?grams?|pounds?|lbs?|ounces?|liters?|litres?|gallons?'
  r'|seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|weeks?|months?|years?'
  r'|units?|points?|people|students?|ways?|times|items?|apples?|books?'
  r'|pieces?|sides?|numbers?|integers?|solutions?|values?|rad(?:ian)?s?'
  r'|(?<=\s)(?:m|km|mi|ft|cm)/(?:s|h|hr|sec|min))'
  r'(?:\s*\^\s*\{?[23]\}?)?(?:\s+(?:old|squared|cubed))?\s*$',
  re.IGNORECASE,
)
_PERCENT = re.compile(
  r'\\%|(?<=[0-9)}])\s*(?:per ?cent(?:age)?|pct)(?![A-Za-z])', re.IGNORECASE
)
_DEGREES = re.compile(
  r'\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degrees?(?![A-Za-z]))'
)
_ANGLE = re.compile(r'([0-9]+(?:\.[0-9]+)?)' + _DEGREES.pattern)
_TRIG = re.compile(r'\\(?:sin|cos|tan|cot|sec|csc)')
_JOINER = re.compile(r'\s*[,;]?\s*(?<![A-Za-z\\])(and|or)(?![A-Za-z])\s*,?\s*')

_SYNONYMS = (
  (re.compile(r'\\(?:[dtcs]|nice)frac(?![A-Za-z])'), r'\\frac'),
  (re.compile(r'\\[dt]?binom(?![A-Za-z])'), r'\\binom'),
  (re.compile(r'\\(?:times|ast)(?![A-Za-z])|(?<!\*)\*(?!\*)'), r'\\cdot '),
  (re.compile(r'\*\*'), '^'),
  (re.compile(r'\\(?:leqslant|leqq|leq|le)(?![A-Za-z])|<=|=<'), r'\\le '),
  (re.compile(r'\\(?:geqslant|geqq|geq|ge)(?![A-Za-z])|>='), r'\\ge '),
  (re.compile(r'\\lt(?![A-Za-z])'), '<'),
  (re.compile(r'\\gt(?![A-Za-z])'), '>'),
  (re.compile(r'\\neq?(?![A-Za-z])|!='), r'\\ne '),
  (re.compile(r'\\(?:varnothing|empty)(?![A-Za-z])|\\\{\s*\\\}'),
   r'\\emptyset '),
  (re.compile(r'\\colon(?![A-Za-z])|\{:\}'), ':'),
  (re.compile(r'\\lbrace(?![A-Za-z])'), r'\\{'),
  (re.compile(r'\\rbrace(?![A-Za-z])'), r'\\}'),
  (re.compile(r'\\[lr]vert(?![A-Za-z])|\\mid(?![A-Za-z])'), '|'),
  (re.compile(r'\\(?:langle|lbrack)(?![A-Za-z])'),
   lambda m: '(' if m[0] == '\\langle' else '['),
  (re.compile(r'\\(?:rangle|rbrack)(?![A-Za-z])'),
   lambda m: ')' if m[0] == '\\rangle' else ']'),
  (re.compile(r'\\(?:rm|bf|it)(?![A-Za-z])'), ' '),
  (re.compile(r'\\backslash(?![A-Za-z])'), r'\\setminus '),
  # `sqrt(2)` and `3pi`, of programs.
  (re.compile(r'(?<![A-Za-z\\])((?:arc)?(?:sin|cos|tan)|sqrt|ln|log|exp)(?=\()'),
   r'\\\1'),
  (re.compile(r'(?<![A-Za-z\\])pi(?![A-Za-z])'), r'\\pi '),
  (re.compile(r'(?<=[0-9])\s*(?:\\text\{to\}|(?<=\s)to(?=\s))\s*(?=[0-9])'),
   ':'),
  (re.compile(r'\^\s*\(([^(){}]*)\)'), r'^{\1}'),
  (re.compile(r'\+\s*\\infty'), r'\\infty'),
  # \lor and \land are for what `_joined` has read.
  (re.compile(r'\\lor(?![A-Za-z])'), r'\\vee '),
  (re.compile(r'\\land(?![A-Za-z])'), r'\\wedge '),
  (re.compile(r'\\(?:imath|jmath)(?![A-Za-z])'), 'i'),
  (re.compile(r'\\(?:dots|ldots|cdots)(?![A-Za-z])'), r'\\dots '),
)  # fmt: skip

_SENTENCES = {
  'real numbers': r'\mathbb{R}',
  'all real numbers': r'\mathbb{R}',
  'all reals': r'\mathbb{R}',
  'empty set': r'\emptyset',
  'the empty set': r'\emptyset',
}
_ARGUMENTS = re.compile(r'\\(frac|binom|sqrt)(?![A-Za-z])')
_IN_BRACKETS = re.compile(r'\s*\(((?:[^()]|\([^()]*\))*)\)')  # of \sqrt(2)
_BARE_ARGUMENT = re.compile(r'\s*(\\[A-Za-z]+|[0-9A-Za-z])')
_SCRIPT = re.compile(r'([\^_])\s*(-?[0-9]+|[A-Za-z]|-[A-Za-z])')
_AROUND_SPACE = re.compile(r'(.?) +(?=(.?))')


@functools.lru_cache(maxsize=1 << 16)
def normalize(text: str) -> str:
  """The canonical spelling of an answer; '' when nothing is left of it."""
  text = text.strip()
  if _PLAIN.fullmatch(text):
    return text
  text = _unwrap(notation.unescaped(characters.ascii_(text)))
  text = notation.usual(text)
  text = notation.decimal_mark(_THOUSANDS.sub('', text))
  text = _SPACING.sub('', text)
  text = text.replace('\\$', '').replace('$', '')
  text = _PERCENT.sub('%', text.replace('\\%', '%'))
  text = _SPACES.sub(' ', text)
  text = _ROMAN.sub(r'\\text{\1}', text)
  text = _CLOCK.sub(lambda m: f'\\text{{{m[1].lower()}m}}', text)
  for _ in range(2):  # `\mathbf{\text{A}}`
    text = _TEXT.sub(_plain_text, text)
  for pattern, replacement in _SYNONYMS:
    text = pattern.sub(replacement, text)
  if _TRIG.search(text):
    text = _ANGLE.sub(r'(\\frac{\1\\pi}{180})', text)
  else:
    text = _DEGREES.sub('', text)
  text = text.strip()
  text = _UNITS.sub('', text)
  text = _PERCENT.sub('%', text)
  text = _ungrouped(text)
  text = _joined(text)
  text = _braced(text)
  text = _SCRIPT.sub(r'\1{\2}', text)
  if _GROUPED.fullmatch(text):
    text = text.replace(',', '')
  text = _tighten(text)
  if text.startswith('\\approx') and not text[7:8].isalpha():
    text = text.removeprefix('\\approx').lstrip()
  text = _SENTENCES.get(text.lower().rstrip('.'), text)
  if text.endswith(('.', ',', ';')):
    text = text.rstrip('.,;')
  if text.startswith('+'):
    text = text[1:]
  return text


def _unwrap(text: str) -> str:
  """Without math delimiters and boxes around the whole."""
  for _ in range(4):
    text = text.strip()
    for wrapper in _WRAPPERS:
      m = wrapper.fullmatch(text.rstrip('.'))
      if m and _balanced(inner := next(g for g in m.groups() if g is not None)):
        text = inner
        break
    else:
      return text
  return text


def _balanced(text: str) -> bool:
  r"""Whether no brace closes that was not opened: not so in `8}\boxed{7`."""
  depth = 0
  for brace in _BRACES.findall(text):
    depth += 1 if brace == '{' else -1
    if depth < 0:
      return False
  return True


def _plain_text(m: re.Match[str]) -> str:
  r"""What `\text{...}` stands for: a joiner, a unit (nothing) or words."""
  content = m.group(1).strip()
  words = content.lower().replace(',', ' ').split()
  if len(words) > 1 and words[-1] in ('squared', 'cubed'):  # of a unit
    content = content[: -len(words.pop())].strip()
  if words and all(w in ('and', 'or') for w in words):
    return f' {words[0]} '
  if not content:
    return ' '
  if len(content) == 1:
    unit = m.string[: m.start()].rstrip()[-1:].isdigit() and content in 'msghlL'
    if unit and _AFTER_UNIT.match(m.string, m.end()):
      return ''
    return content + (m.group(2) or '')
  before = m.string[: m.start()].rstrip()
  value_before = bool(before) and (
    before[-1].isalnum() or before[-1] in ')}]%!'
  )
  if (
    value_before and len(words) == 1 and words[0].startswith(('percent', 'pct'))
  ):
    return '%'
  if value_before and _UNIT_TEXT.fullmatch(content):
    if not _NO_UNIT.intersection(re.findall('[a-z]+', content.lower())) and (
      _AFTER_UNIT.match(m.string, m.end())
    ):
      return ''
    # Never as letters: algebra would take them for a product.
    if content.lower() not in _SYMBOLS:
      return f'\\text{{{" ".join(content.lower().split())}}}{m.group(2) or ""}'
  return f' {content}{m.group(2) or ""} '


def _ungrouped(text: str) -> str:
  """`(1,000, 2)` without the comma in 1,000, if no other reading is left.

  Two signs tell that comma from the others: a space after those, and a group
  that begins with 0, which no number does. `(1,234, 5)` and `(1,000,2)` stay:
  the first may be three numbers, the second three of a code's words.
  """
  groups = list(_GROUP.finditer(text))
  if not groups:
    return text
  rest = _GROUP.sub('', text)
  spaced = _SPACED_COMMA.sub('', _JOINER.sub('', rest))
  alone = not re.search(r'[,;(\[]|\\\{', rest)
  if ',' in spaced or ';' in spaced or (spaced == rest and not alone):
    return text
  return _GROUP.sub(lambda m: m[0].replace(',', ''), text)


def _joined(text: str) -> str:
  r"""With a comma for `and` and `or`; between inequalities `\land`, `\lor`."""
  # One in each part: `p\wedge q=r` is no pair of relations.
  if len(_RELATION.findall(text)) > len(_LOGIC.findall(text)):
    text = _LOGIC.sub(lambda m: ' or ' if m[1] else ' and ', text)
  if not _INEQUALITY.search(text):
    # `x=1 or y=2` is no point.
    either = ';' if '=' in text else ','
    return _JOINER.sub(lambda m: either if m[1] == 'or' else ',', text)
  return _JOINER.sub(lambda m: '\\lor ' if m[1] == 'or' else '\\land ', text)


def _braced(text: str) -> str:
  r"""Puts braces around the arguments of `\frac12`, `\sqrt x`."""
  for m in reversed(list(_ARGUMENTS.finditer(text))):
    at = m.end()
    if m.group(1) == 'sqrt' and (inner := _IN_BRACKETS.match(text, at)):
      text = f'{text[:at]}{{{inner[1]}}}{text[inner.end() :]}'
      continue
    if m.group(1) == 'sqrt' and text[at:].lstrip().startswith('['):
      at = text.find(']', at) + 1
      if not at:
        continue
    for _ in range(1 if m.group(1) == 'sqrt' else 2):
      bare = _BARE_ARGUMENT.match(text, at)
      if bare and not bare.group(1).startswith(('\\frac', '\\sqrt')):
        inside = f'{{{bare.group(1)}}}'
        text = text[:at] + inside + text[bare.end() :]
        at += len(inside)
      else:
        at = _end_of_group(text, at)
  return text


def _end_of_group(text: str, start: int) -> int:
  """Past the `{...}` that opens at or after `start`; `start` if none does."""
  at = start
  while at < len(text) and text[at] == ' ':
    at += 1
  depth = 0
  for i in range(at, len(text)):
    depth += (text[i] == '{') - (text[i] == '}')
    if depth <= 0:
      return i + 1 if i > at else start
  return start


def _tighten(text: str) -> str:
  """Drops every space that does not hold two words or two digits apart."""

  def space(m: re.Match[str]) -> str:
    left, right = m.group(1), m.group(2)
    if left.isalpha() and right.isalpha():
      return left + ' '
    if left.isdigit() and right.isdigit():
      return left + ' '
    return left

  return _AROUND_SPACE.sub(space, text.strip())
