r"""Which unit of measure an answer is given in.

In: an answer as written; out: its unit's name, or whether two answers name
different ones. What is *not* here: dropping units (`normalize`), and computing
with them: 1 hour is not 60 minutes here.

A unit that only one side names is no matter: data sets leave them out. But `5
hours` is not `5 minutes`. Powers (`cm^2`) are not looked at.
"""

import functools
import re

_NAMES = {
  spelling: name
  for name, spellings in {
    'millimeter': 'mm millimetre',
    'centimeter': 'cm centimetre',
    'meter': 'm metre',
    'kilometer': 'km kilometre',
    'inch': 'in inches',
    'foot': 'ft feet',
    'yard': 'yd yds',
    'mile': 'mi',
    'milligram': 'mg',
    'gram': 'g',
    'kilogram': 'kg',
    'pound': 'lb lbs',
    'ounce': 'oz',
    'ton': 'tonne',
    'milliliter': 'ml millilitre',
    'liter': 'l litre',
    'cup': '',
    'pint': 'pt',
    'quart': 'qt',
    'gallon': 'gal',
    'second': 's sec secs',
    'minute': 'min mins',
    'hour': 'h hr hrs',
    'day': '',
    'week': '',
    'month': '',
    'year': '',
    'penny': 'pennies',
    'nickel': '',
    'dime': '',
    'cent': '',
    'dollar': 'usd buck',
    'euro': '',
    'degree': 'deg',
    'radian': 'rad rads',
    'mile hour': 'mph',
  }.items()
  for spelling in (name, *spellings.split())
}
_FILLERS = ('square', 'cubic', 'sq', 'cu', 'per', 'a', 'an')
_TEXT = re.compile(
  r'[0-9)}\]]\s*(?:\\[,;: ]|~)?\s*\\(?:text(?:bf|it|rm|sf|normal)?|mbox|hbox'
  r'|mathrm)\s*\{([A-Za-z\s./]{1,40})\}\s*(?:\^\s*\{?[23]\}?)?\s*[.$]*\s*$'
)
# Without \text only words: `5 m` may be a product.
_PLAIN = re.compile(r'[0-9)}]\s*([A-Za-z][A-Za-z ]{1,39})\s*[.$]*\s*$')
_DEGREES = re.compile(
  r'(?:\\circ|°)[\s})$]*(?:\\(?:text|mathrm)\s*\{\s*)?([CF]?)[\s})$.]*$'
)
_MONEY = re.compile(r'^(?:(?![€£¥₹])\W)*(\\\$|[€£¥₹])\s*[0-9.,]+[\s$.]*$')
_SIGNS = {'\\$': 'dollar', '€': 'euro', '£': 'pound', '¥': 'yen', '₹': 'rupee'}


@functools.lru_cache(maxsize=1 << 15)
def unit(text: str) -> str:
  """The unit's name, `mile hour` for miles per hour; '' for none known."""
  if m := _MONEY.search(text):
    return _SIGNS[m[1]]
  if m := _DEGREES.search(text):
    return f'degree {m[1]}'.rstrip()
  m = _TEXT.search(text) or _PLAIN.search(text)
  if m is None:
    return ''
  names = []
  for word in re.findall('[a-z]+', m.group(1).lower()):
    if word in _FILLERS:
      continue
    name = _NAMES.get(word) or _NAMES.get(word.removesuffix('s'))
    if name is None:
      return ''
    names.append(name)
  return ' '.join(names)


def differ(a: str, b: str) -> bool:
  """Whether both answers name a unit, and not the same."""
  u, v = unit(a), unit(b)
  if not u or not v or 'degree' in (u, v):
    u, v = u.split(' ')[0], v.split(' ')[0]  # of 5 degrees Celsius
  return bool(u and v) and u != v
