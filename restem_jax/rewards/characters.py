"""ASCII for the characters of mathematics outside it.

In: an answer as written; out: the same in LaTeX commands and ASCII signs.
What is *not* here: digits of other scripts, characters of no width and those
that turn the direction of writing. They stay, and equal nothing.
"""

import re

_SUPERSCRIPTS = '⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ'
_SUBSCRIPTS = '₀₁₂₃₄₅₆₇₈₉'
_FRACTIONS = {
  '½': '12', '⅓': '13', '⅔': '23', '¼': '14', '¾': '34', '⅕': '15',
  '⅖': '25', '⅗': '35', '⅘': '45', '⅙': '16', '⅚': '56', '⅛': '18',
  '⅜': '38', '⅝': '58', '⅞': '78',
}  # fmt: skip
_TABLE = str.maketrans(
  {
    '−': '-', '–': '-', '—': '-', '‐': '-', '‑': '-', '﹣': '-', '－': '-',
    '×': r'\cdot ', '·': r'\cdot ', '⋅': r'\cdot ', '∗': r'\cdot ',
    '÷': r'\div ', '⁄': '/', '∕': '/', '±': r'\pm ',
    'π': r'\pi ', 'θ': r'\theta ', 'α': r'\alpha ', 'β': r'\beta ',
    'λ': r'\lambda ', 'φ': r'\phi ', '∞': r'\infty ', '√': r'\sqrt ',
    '∪': r'\cup ', '∩': r'\cap ', '∈': r'\in ', '∅': r'\emptyset ',
    '≤': r'\le ', '≥': r'\ge ', '≠': r'\ne ', '≈': r'\approx ',
    '°': r'^{\circ}', '′': "'", '…': r'\dots ', 'ℝ': r'\mathbb{R}',
    '€': '', '£': '', '¥': '', '₹': '', '¢': r'\text{ cents}',
    '\xa0': ' ', '\u2009': ' ', '\u202f': ' ', '\u3000': ' ',
    '“': '"', '”': '"', '‘': "'", '’': "'",
    '，': ',', '；': ';', '：': ':', '（': '(', '）': ')', '［': '[', '］': ']',
    '｛': r'\{', '｝': r'\}', '＝': '=', '＋': '+', '＜': '<', '＞': '>',
    '％': '%', '。': '.',
    **{c: rf'\frac{digits} ' for c, digits in _FRACTIONS.items()},
  }
)  # fmt: skip
_SCRIPTS = re.compile(rf'([{_SUPERSCRIPTS}]+)|([{_SUBSCRIPTS}]+)')
_PLAIN = str.maketrans(_SUPERSCRIPTS + _SUBSCRIPTS, '0123456789-+n0123456789')


def ascii_(text: str) -> str:
  """`text` with the characters that have one reading spelled in ASCII."""
  if text.isascii():
    return text
  return _SCRIPTS.sub(_script, text).translate(_TABLE)


def _script(m: re.Match[str]) -> str:
  return f'{"^" if m[1] else "_"}{{{m[0].translate(_PLAIN)}}}'
