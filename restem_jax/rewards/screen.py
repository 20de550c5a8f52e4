r"""Refuses answers that no problem has and that only cost time.

In: a canonical answer (`normalize.normalize`); out: the reason to refuse it,
or ''. What is *not* here: limits on what passes (`pool` kills it).

A computer algebra system sees only what is spelled with a list of known
characters and commands: no underscores between letters, no quotes, no
attribute access, no towers of exponents, no factorials of large numbers. An
answer that is refused is wrong unless it is spelled as the gold is.
"""

import math
import re

MAX_CHARS = 300
MAX_NESTING = 16
MAX_DIGITS = 40
MAX_TOWER = 2

_CHARACTERS = re.compile(
  r'(?:[0-9A-Za-z +\-/^!()\[\]{}<>=.,:;|%&]'
  r'|(?<=[A-Za-z}])_|\\[A-Za-z]+|\\[{}\\])*'
)
_COMMANDS = frozenset(
  re.findall(
    r'\S+',
    r'frac binom sqrt cdot div pm mp sin cos tan cot sec csc arcsin arccos '
    r'arctan sinh cosh tanh log ln exp pi infty emptyset cup cap in le ge ne '
    r'approx equiv overline circ alpha beta gamma delta epsilon varepsilon zeta '
    r'eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi '
    r'varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega '
    r'begin end max min gcd lcm det lfloor rfloor lceil rceil bmod pmod mod sum '
    r'prod int lim to infin dots mathbb setminus bar hat vec langle rangle '
    r'triangle angle prime lor land',
  )
)
_COMMAND = re.compile(r'\\([A-Za-z]+)')
_TWO_NUMBERS = re.compile(r'[0-9] [0-9]')
# 2^3^2, which LaTeX refuses and the parser reads as (2^3)^2.
_TWO_EXPONENTS = re.compile(r'\^\{[^{}]*\}\^')
_ATTRIBUTE = re.compile(r'\.[A-Za-z]')
_HEXADECIMAL = re.compile(r'(?<![0-9.])0[xX][0-9A-Fa-f]')
_DIGITS = re.compile(rf'[0-9]{{{MAX_DIGITS + 1},}}')
_LARGE_EXPONENT = re.compile(r'\^\{?[-+(]*[0-9]{5,}|\[[0-9]{5,}\]')
_NUMBER_TOWER = re.compile(r'\^[{(]*([0-9]+)\^[{(]*([0-9]+)')
_LARGE_ARGUMENT = re.compile(
  r'[0-9]{5,}\)*!|\\(?:binom|Gamma)[{(]*[0-9]{5,}|![^A-Za-z0-9]*!'
  r'|\\(?:sum|prod|int)(?=.*[0-9]{5,})'
)
_POWER_FACTORIAL = re.compile(r'\^\{?[0-9]+\}?\)+!|\^\{?\(*[^{}]*!')
_EXPONENT_10 = re.compile(r'[0-9]\.?[eE][+-]?[0-9]{4,}')
_GAMMA_POWER = re.compile(r'\\Gamma[({]+[0-9]+\^')


def refused(text: str) -> str:
  """Why an answer is not worth computing with; '' when it is."""
  if len(text) > MAX_CHARS:
    return 'too long'
  if not _CHARACTERS.fullmatch(text):
    return 'unknown characters'
  for command in _COMMAND.findall(text):
    if command not in _COMMANDS:
      return f'unknown command \\{command}'
  if _TWO_EXPONENTS.search(text):
    return 'two exponents side by side'
  if _TWO_NUMBERS.search(text):
    return 'two numbers side by side'
  if _ATTRIBUTE.search(text):
    return 'a point before a letter'
  if _HEXADECIMAL.search(text):
    return 'hexadecimal'
  if _DIGITS.search(text):
    return 'too many digits'
  if _LARGE_EXPONENT.search(text) or _EXPONENT_10.search(text):
    return 'large exponent'
  for base, exponent in _NUMBER_TOWER.findall(text):
    if int(exponent) * math.log10(max(int(base), 1)) >= 4:
      return 'large exponent'
  if (
    _LARGE_ARGUMENT.search(text)
    or _POWER_FACTORIAL.search(text)
    or _GAMMA_POWER.search(text)
  ):
    return 'large argument'
  return _nesting(text)


def _nesting(text: str) -> str:
  """Bounds the depth of brackets, and of exponents inside exponents."""
  opened: list[bool] = []  # for each open bracket: is it an exponent's?
  tower = chain = 0
  previous = ''
  for c in text:
    if c in '([{':
      exponent = previous == '^'
      opened.append(exponent)
      tower += exponent
      if len(opened) > MAX_NESTING:
        return 'nesting'
      if tower > MAX_TOWER:
        return 'tower of exponents'
    elif c in ')]}' and opened:
      tower -= opened.pop()
    # 2^2^2 without braces; any other operator ends the chain.
    if c == '^':
      chain += 1
      if chain > MAX_TOWER:
        return 'tower of exponents'
    elif c in '+-/,=<>()[] ' or c == '\\':
      chain = 0
    previous = c
  return ''
