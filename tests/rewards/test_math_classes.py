r"""Classes of spellings and of wrong answers, as compact tables.

A line of EQUAL is a gold answer and other spellings of it; a line of APART a
gold answer and what it must not equal. The classes are those of MATH, GSM8K
and of the graders' own tests elsewhere; `test_math_cases` has the corpora.
"""

from fractions import Fraction
import json
import re
import subprocess
import sys
import textwrap

from hypothesis import assume, given, settings, strategies as st
import pytest

from restem_jax.records import Problem
from restem_jax.rewards import base, extraction
from restem_jax.rewards.math import MathGrader

EQUAL = r"""
= fractions
\frac{1}{2} | \frac12 | \frac1{2} | \tfrac 1 2 | {1 \over 2} | 1 \over 2 | ½
\frac{1}{2} | \nicefrac{1}{2} | \sfrac12 | 1⁄2 | 5e-1 | 50\% | (1/2) | .50
\frac{7}{3} | 2\frac13 | 2\ \frac{1}{3} | 2 1/3 | 2⅓ | 2+\frac13
\frac{\sqrt3}{2} | {\sqrt{3} \over 2} | √3/2 | \sqrt(3)/2 | sqrt(3)/2
\frac{1}{1+\frac12} | \cfrac{1}{1+\cfrac{1}{2}} | {1 \over {1 + {1 \over 2}}}
= decorations
42 | **42** | $42$. | \boxed{\boxed{42}} | 42\ | \text{42} | 42, | {42}
42 | The answer is 42. | \text{The answer is }42 | Answer: $42$ | 42\quad
42 | \text{The final answer is 42} | x=42 | \text{Area}=42 | AB = 42
42 | \textcolor{red}{42} | \underline{42} | \Large 42 | "42" | `42` | \mathbf{\text{42}}
\text{Saturday} | **Saturday** | saturday. | \textbf{Saturday}
= escaped twice
\frac{1}{2} | \\frac{1}{2} | \\dfrac12 | $\\frac{1}{2}$
\begin{pmatrix}1\\2\end{pmatrix} | \\begin{pmatrix}1\\\\2\\end{pmatrix}
-2\le x\le 7 | -2 \\le x \\le 7 | x\in[-2,7]
= numbers
1000 | 1e3 | 10^3 | 1\,000 | 1,\!000 | \$1,000 | USD 1000 | ₹1000 | 1000.0
6.02\times10^{23} | 6.02 x 10^23 | 6.02×10²³ | 6.02e23 | 60.2\cdot10^{22}
3.14 | 3{,}14 | 3{.}14 | 3,14
0.125 | 0{,}125 | 0,125
2^{100} | 1267650600228229401496703205376 | 4^{50} | 2\cdot2^{99}
120 | {10 \choose 3} | \binom{10}{3} | 5!
= repeating decimals
\frac13 | 0.\overline{3} | .\overline3 | 0.333\ldots | 0.333... | 0.(3) | 0.\dot3
\frac17 | 0.\dot{1}4285\dot{7} | 0.\overline{142857} | 0.142857142857...
\frac{4}{33} | 0.1212\dots | 0.\overline{12} | 0.(12)
= units
5 | 5 m/s | 5 km/h | 5 years old | 5\text{ units squared} | 5\text{ L} | 5¢
5 | 5^\circ\text{C} | 5 °C | 5^\circ \mathrm{F} | 5 per cent | 5\,\text{cm}^2
12\pi | 12\pi cm^2 | 12π | 12pi | 12*pi | 12\pi\text{ square inches}
= words
\text{ellipse} | an ellipse | \text{Ellipse} | The ellipse.
\text{no solution} | no solutions | \text{No Solution}
B | \text{Option B} | Choice (B) | B) | (B) | \textbf{(B)}
\mathbb{R} | (-\infty,\infty) | \text{all real numbers} | ℝ | x\in\mathbb{R}
\emptyset | \text{empty set} | \{\} | ∅
= points
(1,2) | x=1, y=2 | y=2, x=1 | x=1\text{ and }y=2 | (x,y)=(1,2) | (1;2)
(1,2) | \langle 1,2\rangle | （1，2） | (1.0,\frac42)
(x,y)=(1,2) | x=1, y=2 | y=2 and x=1
= sets
[0,1) | \{x \mid 0\le x<1\} | \{x\in\mathbb{R} : 0\le x<1\} | 0\le x<1
(-\infty,2)\cup(2,\infty) | \mathbb{R}\setminus\{2\} | x\ne2
(-\infty,1)\cup(1,2)\cup(2,\infty) | \mathbb{R} \backslash \{2,1\}
\{1,2\} | {1,2} | 1 or 2 | x_1=1, x_2=2 | ｛1,2｝ | x = 1\text{ or }2
1,2,3 | \boxed{1}, \boxed{2} and \boxed{3} | 1;2;3 | $1$, $2$ and $3$
= names
f^{-1}(x)=\frac{x-1}{2} | \frac{x-1}{2} | f^{-1}(x) = \frac x2-\frac12
(2,\infty) | {x|x > 2} | \{x:x>2\}
e^{2x} | e^(2x) | exp(2x) | e**(2x)
= clock and ratio
\text{2:00 PM} | 2:00 p.m. | 2:00\text{ PM} | \text{2:00 pm}
8\!:\!34\text{ p.m.} | 8:34 PM | 8:34\text{ pm}
5\text{ west} | 5.0\text{ west} | 5\textbf{ West}
2:3 | 2 to 3 | 2\text{ to }3 | 2 : 3 | 2{:}3
= matrices
\begin{pmatrix}\frac12\\2\end{pmatrix} | \begin{bmatrix}.5\\[4pt]2\end{bmatrix}
\begin{pmatrix}-1\\2\end{pmatrix} | \begin{pmatrix} -1 \cr 2 \end{pmatrix}
= bases
204_5 | 204_{\text{five}} | (204)_5 | 204_{(5)} | 204\text{ base }5
= working
5 | 2+3=5 | x=2+3=5 | x\approx5 | \approx 5
\frac{10}{3} | \frac{10}{3}\approx3.33 | x=\frac{10}{3}\approx3.333
= scripts
x^{10} | x¹⁰ | x^10 | x**10
a_{12} | a₁₂ | a_{12}
"""

APART = r"""
= fractions
\frac12 | 12 | 1,2 | \frac1{} | \frac{1}{2 | 1//2 | 2\over1 | 0.51 | \frac12x
\frac73 | 2\cdot\frac13 | 2.33 | 2.333333 | 21/3 | 2(\frac13)
= numbers
42 | 4 2 | 4,2 | 42... | 42\ldots | 42_5 | \pm42 | \{42\} | 0x2a | 42'
42 | not 42 | about 42 | 42 and a half | 42 thousand | 42\text{ pairs} | 42i
11 | 1\text{ }1 | 1\ 1 | 11--12 | 11\to12 | 11=12-2 | 12\approx11
1.5 | 1, 5 | (1,5) | 1\cdot5
1000 | 1,00 | 1.000 | 1, 000 | 1_000 | 1,0,0,0 | (1,000)
1.234 | 1,234
\frac{38}{15} | 2.5(3)
1,22 | 1.22
0 | \frac{1}{\infty} | 10^{-20} | \frac00 | \emptyset | \infty-\infty | O
1 | ١ | ‮1 | ² | ¹ | 1​ | １ | \infty/\infty | 0^0 | I | l | True
12 | 1² | ‮21
\infty | -\infty | 2\infty | \infty^2
= repeating decimals
\frac13 | 0.3 | 0.333 | \overline3 | 0.\overline{03} | 0.33... | 0.3\ldots
3.14159 | 3.14159...
= percent
50x | 50\%x | 5\%x
50\% | 5\% | 0.5\% | 5000 | 0.05
= units
5^\circ\text{C} | 5^\circ\text{F}
\$5 | €5 | 5\text{ cents}
5\text{ west} | 5 | 5\text{ east} | 6\text{ west} | \text{west}
8:34\text{ p.m.} | 8:34 | 8:34 AM | 8:43 PM
= words
\text{even} | odd | not even | even or odd
A | B | a | AB | A or B | \text{(A)(B)} | not A | Option B
\emptyset | 0 | \{0\} | \{\emptyset\}
\mathbb{R} | \mathbb{Z} | R | (-\infty,0)\cup(0,\infty)
= points
(1,2) | x=2, y=1 | y=1, x=2 | (2,1) | \{1,2\} | 1,2 | x=1 | x=1,y=2,z=3
(1,2) | x=1\text{ or }y=2 | (1,2,3) | x=1
(x,y)=(1,2) | x=2, y=1 | a=1, b=2 | (x,y)=(2,1)
= sets
[0,1) | \{x \mid 0<x<1\} | \{y \mid 0\le x<1\} | \{0,1\}
(-\infty,2)\cup(2,\infty) | \mathbb{R}\setminus\{3\} | \mathbb{R}
2 | \boxed{1}, \boxed{2} | \boxed{1}\boxed{2} | \boxed{2} or so \boxed{1}
1,2 | \boxed{1} or maybe \boxed{2} | 1.2 | 1:2
= working
5 | 7=7 | 5=5 | 2+2=5 | 5=6 | 4=5=5 | a+b=5 | x=4=5 | 5\ne5 | x=5=\frac00
3.33 | \approx 3.3 | x\approx3.334
\frac{10}{3} | \frac{10}{3}\approx3.4 | \frac{10}{3}\approx x
= scalars and matrices
10 | 10\begin{pmatrix}1\\1\end{pmatrix} | \begin{pmatrix}1&2\\3&4\end{pmatrix}^{99}
1 | \lfloor e^{1000}\rfloor | \int\int xdx | (-1)!
= bases
204_5 | 204 | 204_6 | 402_5 | 204\text{ base }6 | 54
"""


def rows(table):
  kind = ''
  for line in table.strip().splitlines():
    if line.startswith('= '):
      kind = line[2:]
      continue
    gold, *others = line.split(' | ')
    yield pytest.param(gold, others, id=f'{kind}: {gold}')


def problem(answer):
  return Problem(id='p', question='', answer=answer)


def extract(text):
  """The boxed answer; without a box, the whole."""
  return extraction.boxed(text) if '\\boxed' in text else text


@pytest.fixture(scope='module')
def grader():
  with MathGrader(extract=extract, timeout_s=5.0, num_workers=1) as grader:
    yield grader


@pytest.fixture(scope='module')
def exact():
  with MathGrader(extract=extract, symbolic=False) as grader:
    yield grader


def reasons(grader, gold, preds):
  verdicts = grader.grade((problem(gold), pred) for pred in preds)
  return {p: v.reason for p, v in zip(preds, verdicts, strict=True)}


@pytest.mark.parametrize(('gold', 'preds'), list(rows(EQUAL)))
def test_equal(grader, gold, preds):
  assert reasons(grader, gold, preds) == dict.fromkeys(preds, 'correct')


@pytest.mark.parametrize(('gold', 'preds'), list(rows(APART)))
def test_apart(grader, gold, preds):
  found = reasons(grader, gold, preds)
  assert set(found.values()) <= {'wrong', 'no_answer'}, found


def spellings(x):
  """Ways to write a rational number."""
  n, d = x.numerator, x.denominator
  sign, whole, rest = '-' * (n < 0), abs(n) // d, abs(n) % d
  yield f'{n}/{d}'
  yield f'\\frac{{{3 * n}}}{{{3 * d}}}'
  yield f'{sign}{{{abs(n)}\\over{d}}}'
  yield f'\\left(\\dfrac{{{n}}}{{{d}}}\\right)'
  yield f'x={n}\\div{d}'
  yield f'{100 * n}/{d}\\%'
  if rest:
    yield f'{sign}{whole}\\frac{{{rest}}}{{{d}}}' if whole else f'{n}/{d}'
  if d == 1:
    yield f'{n:,}'
    yield f'{n}.0'
  if 10**6 % d == 0:
    yield f'{sign}{whole}.{rest * 10**6 // d:06}'
  else:
    yield f'{sign}{whole}.{repeating(rest, d)}'


def repeating(rest, d):
  """The decimals of rest/d, by long division."""
  digits, seen = '', {}
  while rest and rest not in seen:
    seen[rest] = len(digits)
    digits += str(10 * rest // d)
    rest = 10 * rest % d
  at = seen.get(rest, len(digits))
  return digits[:at] + (f'\\overline{{{digits[at:]}}}' if rest else '')


numbers = st.builds(Fraction, st.integers(-9999, 9999), st.integers(1, 40))


@settings(deadline=None)  # the machine may be busy
@given(numbers, numbers)
def test_rationals(exact, x, y):
  """Whatever their spelling, equal ones are equal and others are not."""
  gold = f'\\frac{{{x.numerator}}}{{{x.denominator}}}'
  found = reasons(exact, gold, list(spellings(x)))
  assert set(found.values()) == {'correct'}, (gold, found)
  # 50% is 50 and 0.5.
  assume(y not in (x, 100 * x, x / 100))
  found = reasons(exact, gold, list(spellings(y)))
  assert set(found.values()) == {'wrong'}, (gold, found)


@settings(deadline=None)
@given(st.one_of(
  st.text(max_size=60),
  st.text('\\{}()[]^_,;:|=<>.+-/*!$&% 0123456789abxi', max_size=60),
  st.lists(
    st.sampled_from(
      re.findall(
        r'\S+',
        r'\frac { } ( ) [ ] ^ _ 2 1 x \sqrt \over \pm , ; \text{ \boxed{ \cup '
        r'\{ \} | \le = \approx \infty \overline{ . \dots \\ \begin{pmatrix} & '
        r'\end{pmatrix} \circ \mathbb{R} \setminus and or base',
      )
    ),
    max_size=25,
  ).map(''.join),
))  # fmt: skip
def test_no_text_crashes_or_is_an_answer(exact, text):
  assert base.score(exact, problem('7919'), text).reward == (
    text.strip() == '7919'
  )
  exact.check_gold([problem(text)])


def test_no_text_is_compiled():
  """Neither eval, sympify of a string nor parse_expr sees an answer."""
  code = """
    import json, sys
    from restem_jax.rewards import math_worker, normalize, symbolic
    symbolic.warm_up()
    pairs = json.load(sys.stdin)
    compiled = []
    def note(event, arguments):
      if event in ('compile', 'exec') and isinstance(arguments[0], str | bytes):
        compiled.append(arguments[0])
    sys.addaudithook(note)
    for pair in pairs:
      try:
        math_worker.handle({'same': sorted(map(normalize.normalize, pair))})
      except Exception:
        pass
    # sympy writes functions of its own for polynomials in n variables.
    print([c for c in compiled if not c.startswith(b'def monomial_')])
  """
  texts = [
    r'\sqrt{2}+x', '__import__("os").getpid()', 'x.__class__', 'exec("1")',
    r'\sin x^2', r'f(x)=\frac{1}{x}', r'\operatorname{print}(1)', 'print(7)',
    r'\sum_{k=1}^{9}k^2', r'\int_0^1x^2dx', '1+1', '2x+eval("7")', r'x_{eval}',
    r'\begin{pmatrix}x&1\\2&eval(3)\end{pmatrix}', 'lambda:7', '0.1x+1e3',
  ]  # fmt: skip
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)],
    input=json.dumps([[a, b] for a in texts for b in texts[:6]]),
    capture_output=True, text=True, timeout=120, check=True,
  )  # fmt: skip
  assert done.stdout.strip() == '[]'
