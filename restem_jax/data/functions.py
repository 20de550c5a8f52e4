"""Generated programming problems: small Python functions, with tests.

In: a split and a seed. Out: problems of kind 'assert'. Standard library only;
the SeqIO Task over these is in `data.seqio_code`.

There are some 600 of them, each a family ("multiply x by k") with its own
constants. A problem belongs to one split for good, whatever the seed: a hash of
its question says which. So test holds the families of train with other
constants: it measures writing of short right functions, not invention.

The expected values come from Python functions of this module, the reference
programs are text of their own: that the two agree is checked by the grader when
the problems are loaded (`check_gold`), and by a test.
"""

from collections.abc import Callable, Iterator
import dataclasses
import itertools
import random
from typing import Any

from restem_jax.data import source, splits
from restem_jax.records import Problem

# How many of 16 equal shares of all problems each split has.
_SHARES = {'test': 5, 'validation': 2, 'train': 9}
_SHOWN, _TESTS = 3, 6  # tests in the prompt, and in all
_ONE = tuple((k,) for k in range(2, 32))
_TWO = tuple(itertools.product(range(2, 12), range(1, 10)))
_WORDS = ('banana', 'code', 'x', 'hello world', 'Python', 'level', 'a1b2c3')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """Functions that differ in their constants only."""

  parameters: str  # of the function: 'x', 'a, b', 's' (text) or 'xs' (a list)
  returns: str  # what the function returns, in words; {k}, {m}: the constants
  body: str  # what it returns, in Python
  fn: Callable[..., Any]  # (k, [m,] arguments) -> the expected value
  constants: tuple[tuple[int, ...], ...] = _ONE


FAMILIES = {
  'add_number': Family(
    parameters='x',
    returns='the number x plus {k}',
    body='x + {k}',
    fn=lambda k, x: x + k,
  ),
  'multiply': Family(
    parameters='x',
    returns='the number x multiplied by {k}',
    body='x * {k}',
    fn=lambda k, x: x * k,
  ),
  'linear': Family(
    parameters='x',
    returns='the number x multiplied by {k}, plus {m}',
    body='x * {k} + {m}',
    fn=lambda k, m, x: x * k + m,
    constants=_TWO,
  ),
  'square_plus': Family(
    parameters='x',
    returns='the square of the number x, plus {k}',
    body='x ** 2 + {k}',
    fn=lambda k, x: x * x + k,
  ),
  'remainder': Family(
    parameters='x',
    returns='the remainder when the number x is divided by {k}',
    body='x % {k}',
    fn=lambda k, x: divmod(x, k)[1],
  ),
  'is_multiple': Family(
    parameters='x',
    returns='True if the number x is a multiple of {k}, and False if not',
    body='x % {k} == 0',
    fn=lambda k, x: x // k * k == x,
  ),
  'is_between': Family(
    parameters='x',
    returns='True if the number x is greater than {k} and less than {k}{m},'
    ' and False if not',
    body='{k} < x < {k}{m}',
    fn=lambda k, m, x: x > k and x < 10 * k + m,
    constants=_TWO,
  ),
  'larger_plus': Family(
    parameters='a, b',
    returns='the larger of the numbers a and b, plus {k}',
    body='max(a, b) + {k}',
    fn=lambda k, a, b: (a if a > b else b) + k,
  ),
  'product_minus': Family(
    parameters='a, b',
    returns='the product of the numbers a and b, minus {k}',
    body='a * b - {k}',
    fn=lambda k, a, b: b * a - k,
  ),
  'repeat_text': Family(
    parameters='s',
    returns='the string s repeated {k} times',
    body='s * {k}',
    fn=lambda k, s: ''.join([s] * k),
  ),
  'length_plus': Family(
    parameters='s',
    returns='the length of the string s, plus {k}',
    body='len(s) + {k}',
    fn=lambda k, s: sum(1 for _ in s) + k,
  ),
  'append_number': Family(
    parameters='s',
    returns="the string s followed by '{k}'",
    body="s + '{k}'",
    fn=lambda k, s: f'{s}{k}',
  ),
  'sum_plus': Family(
    parameters='xs',
    returns='the sum of the list xs, plus {k}',
    body='sum(xs) + {k}',
    fn=lambda k, xs: sum(xs, k),
  ),
  'largest_times': Family(
    parameters='xs',
    returns='the largest number of the list xs, multiplied by {k}',
    body='max(xs) * {k}',
    fn=lambda k, xs: sorted(xs)[-1] * k,
  ),
  'keep_greater': Family(
    parameters='xs',
    returns='a list of the numbers of the list xs that are greater than {k}',
    body='[x for x in xs if x > {k}]',
    fn=lambda k, xs: list(filter(lambda x: x > k, xs)),
  ),
  'count_less': Family(
    parameters='xs',
    returns='how many numbers of the list xs are less than {k}',
    body='sum(x < {k} for x in xs)',
    fn=lambda k, xs: len([x for x in xs if x < k]),
  ),
  'multiply_all': Family(
    parameters='xs',
    returns='a list of all numbers of the list xs, each multiplied by {k}',
    body='[x * {k} for x in xs]',
    fn=lambda k, xs: [k * x for x in xs],
  ),
}


def split_of(question: str) -> str:
  """The split of a question, whatever the seed."""
  share = splits.unit_hash(0, splits.normalised(question)) * 16
  for split, width in _SHARES.items():
    if share < width:
      return split
    share -= width
  raise AssertionError('the shares do not add up to 16')


def problems(split: str, *, seed: int) -> list[Problem]:
  """All problems of a split; the seed draws their order and their tests.

  Each has six tests, of which the prompt shows the first three: a program that
  only knows those by heart is wrong.

  Raises:
    ValueError: for an unknown split.
  """
  if split not in _SHARES:
    raise ValueError(f'no split {split!r}; write one of {source.SPLITS}')
  found = [p for p in _all(seed) if split_of(p.question) == split]
  return sorted(found, key=lambda p: splits.unit_hash(seed, p.id))


def _all(seed: int) -> Iterator[Problem]:
  for name, family in FAMILIES.items():
    for constants in family.constants:
      values = dict(zip('km', constants, strict=False))
      call = f'{name}({family.parameters})'
      problem_id = f'functions/{name}/{"_".join(map(str, constants))}'
      rng = random.Random(f'{seed}:{problem_id}')
      returns = family.returns.format(**values)
      body = family.body.format(**values)
      yield Problem(
        id=problem_id,
        question=f'Write a Python function {call} that returns {returns}.',
        answer='',
        solution=f'def {call}:\n    return {body}',
        task='functions',
        meta={
          'kind': 'assert',
          'entry_point': name,
          'tests': _tests(name, family, constants, rng),
          'shown': _SHOWN,
        },
      )


def _tests(
  name: str, family: Family, constants: tuple[int, ...], rng: random.Random
) -> list[str]:
  """Asserts that the functions of all other constants fail.

  Their arguments differ, and the shown ones have not all the same value.
  """
  draw = {
    'x': lambda: (_number(constants, rng),),
    'a, b': lambda: (_number(constants, rng), _number(constants, rng)),
    's': lambda: (rng.choice(_WORDS),),
    'xs': lambda: (
      [_number(constants, rng) for _ in range(rng.randint(1, 5))],
    ),
  }[family.parameters]
  others = [other for other in family.constants if other != constants]
  while True:
    calls = {}
    while len(calls) < _TESTS:
      arguments = draw()
      calls[', '.join(map(repr, arguments))] = arguments
    values = [family.fn(*constants, *each) for each in calls.values()]
    if len(set(map(repr, values[:_SHOWN]))) > 1 and all(
      any(
        family.fn(*other, *arguments) != value
        for arguments, value in zip(calls.values(), values, strict=True)
      )
      for other in others
    ):
      return [
        f'assert {name}({written}) == {value!r}'
        for written, value in zip(calls, values, strict=True)
      ]


def _number(constants: tuple[int, ...], rng: random.Random) -> int:
  """Any number, or one at which conditions on the constants change."""
  k = constants[0]
  last = int(''.join(map(str, constants)))  # 'less than {k}{m}'
  return rng.choice(
    (
      rng.randint(0, 120),
      k * rng.randint(0, 12),
      k + rng.randint(-1, 1),
      last + rng.randint(-1, 0),
    )
  )
