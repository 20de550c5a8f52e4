"""Tests of restem_jax.rewards.math: the whole grader, with its workers."""

import collections
import itertools
import threading
import time

from hypothesis import given, settings, strategies as st
import pytest

from restem_jax.records import Problem
from restem_jax.rewards import base, math as math_lib, pool
from restem_jax.rewards.math import MathGrader

# Takes a whole second of CPU, at any load, and passes the screen.
SLOW = r'\sum_{k=0}^{%d}\binom{%d}{k}x^{k}'


def problem(answer, id_='p'):
  return Problem(id=id_, question='', answer=answer)


def whole(text):
  """An extractor for tests whose completion is the answer."""
  return text if text.strip() else None


@pytest.fixture(scope='module')
def grader():
  # The limit is for a machine with other load; see the hostile test.
  with MathGrader(extract=whole, timeout_s=5.0, num_workers=2) as grader:
    yield grader


@pytest.fixture(scope='module')
def limited():
  """A grader with a limit that hostile answers run into."""
  with MathGrader(extract=whole, timeout_s=0.5, num_workers=2) as grader:
    assert grader.equivalent('2x', 'x+x')
    yield grader


@pytest.fixture
def stub(monkeypatch, tmp_path):
  """Makes graders ask a worker that runs the given code for each request."""

  def install(code):
    (tmp_path / 'stub_worker.py').write_text(
      'import os, time\n'
      'from restem_jax.rewards import forkserver\n'
      f'forkserver.serve(lambda request: {code})\n'
    )
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.setattr(math_lib, '_WORKER', 'stub_worker')

  return install


@pytest.fixture(scope='module')
def strings_only():
  with MathGrader(extract=whole, symbolic=False) as grader:
    yield grader


@pytest.mark.parametrize(
  ('gold', 'pred'),
  [
    ('42', '$42.0$'),
    (r'\frac{1}{2}', '0.5'),
    (r'\sqrt{8}', r'2\sqrt{2}'),
    ('(x+1)(x-1)', 'x^2-1'),
    (r'(\sqrt8, 1)', r'\left(2\sqrt2, 1\right)'),
    (r'\sqrt8, -\sqrt8', r'\pm 2\sqrt{2}'),
    (r'[\sqrt8,\infty)', r'x \ge 2\sqrt2'),
    (r'\begin{pmatrix}\sqrt8\\1\end{pmatrix}',
     r'\begin{bmatrix} 2\sqrt2 \\ 1\end{bmatrix}'),
    ('y=2x+1', 'y-1=2x'),
    (r'1000', r'1\,000'),
    ('1e3', '1000'),
    (r'e^{i\pi}', '-1'),
    (r'\text{(C)}', 'C'),
  ],
)  # fmt: skip
def test_equivalent(grader, gold, pred):
  assert grader.equivalent(gold, pred)
  assert grader.equivalent(pred, gold)
  assert base.score(grader, problem(gold), pred).reason == 'correct'


def test_in_order_and_with_reasons(grader):
  texts = [r'2\sqrt2', '3', '', '2', 'x' * 301, r'\sqrt{4}\sqrt{2}']
  verdicts = list(grader.grade((problem(r'\sqrt8'), t) for t in texts))
  assert [v.reason for v in verdicts] == [
    'correct', 'wrong', 'no_answer', 'wrong', 'no_answer', 'correct',
  ]  # fmt: skip
  assert [v.answer for v in verdicts][:4] == [r'2\sqrt2', '3', '', '2']


def test_streams_without_end(strings_only):
  verdicts = strings_only.grade(
    (problem(str(i)), str(i)) for i in itertools.count()
  )
  assert all(v.reward == 1.0 for v in itertools.islice(verdicts, 5000))


def test_draws_no_more_than_it_may_hold(stub):
  stub('time.sleep(0.05) or True')
  drawn = []

  def pairs():
    for i in range(50):
      drawn.append(i)
      yield problem('x'), f'y+{i}'

  with MathGrader(extract=whole, num_workers=1, max_in_flight=4) as grader:
    next(grader.grade(pairs()))
    assert len(drawn) == 4


def test_symbolic_false_starts_no_process(strings_only):
  assert strings_only.equivalent('1/2', '0.5')
  assert not strings_only.equivalent(r'\sqrt8', r'2\sqrt2')
  assert strings_only._pool is None


def test_require_evaluated():
  with MathGrader(
    extract=whole, symbolic=False, require_evaluated=True
  ) as grader:

    def reason(gold, pred):
      return base.score(grader, problem(gold), pred).reason

    assert reason('7', '7') == 'correct'
    assert reason('7', '7.0') == 'correct'
    assert reason('1/2', '2/4') == 'correct'
    assert reason('x=7', '7') == 'correct'
    assert reason('7', '3+4') == 'wrong'
    assert reason('7', r'\frac{7}{1}\cdot1') == 'wrong'
    assert reason('(1,7)', '(1,3+4)') == 'wrong'
    assert reason('x+1', 'x+1') == 'correct'
    # As an equivalence for votes nothing changes.
    assert grader.equivalent('7', '3+4')


def test_check_gold(grader):
  golds = [
    '42', r'\sqrt2', 'even', '', r'\frac{1}{0}', 'x' * 301, 'x+', '(1,2)',
    r'3 \text{ mph} \approx', r'8\!:\!34\text{ p.m.}', '2^{100000}', 'f(2) < f(1) < f(4)', '204_5',
  ]  # fmt: skip
  problems = [problem(gold, id_=str(i)) for i, gold in enumerate(golds)]
  dropped = {p.answer: reason for p, reason in grader.check_gold(problems)}
  assert list(dropped) == [
    '', r'\frac{1}{0}', 'x' * 301, 'x+', r'3 \text{ mph} \approx',
    '2^{100000}',
  ]  # fmt: skip
  assert dropped[''] == 'empty answer'
  assert dropped[r'\frac{1}{0}'] == 'undefined value'
  assert 'cannot read' in dropped['x+']


def test_memo_survives_a_restart(stub, tmp_path):
  path = tmp_path / 'memo.jsonl'
  pairs = [(problem(r'\sqrt8'), r'2\sqrt2'), (problem('x'), r'2\sqrt2')]
  stub("sorted(request['same']) == ['2\\\\sqrt{2}', '\\\\sqrt{8}']")
  with MathGrader(extract=whole, memo_path=path) as grader:
    first = list(grader.grade(pairs))
  with MathGrader(extract=whole, memo_path=path) as grader:
    assert list(grader.grade(pairs)) == first
    # The other way round is the same pair.
    assert grader.equivalent(r'2\sqrt2', r'\sqrt8')
    assert grader._pool is not None
    assert grader._pool._server._process is None  # nothing had to be asked
  assert [v.reason for v in first] == ['correct', 'wrong']


def test_asks_once_for_many_equal_answers(grader):
  asked = []
  submit = grader._pool.submit
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      grader._pool, 'submit', lambda r: (asked.append(r), submit(r))[1]
    )
    verdicts = grader.grade(
      (problem(r'\sqrt{50}'), r'5\sqrt2') for _ in range(100)
    )
    assert {v.reason for v in verdicts} == {'correct'}
  assert len(asked) == 1


def test_may_be_used_by_several_threads(grader):
  results = []

  def work(n):
    pairs = [(problem(rf'\sqrt{{{n * n * 2}}}'), rf'{n}\sqrt2')] * 5
    results.extend(v.reason for v in grader.grade(pairs))

  threads = [threading.Thread(target=work, args=(n,)) for n in range(2, 8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert collections.Counter(results) == {'correct': 30}


def test_a_hostile_answer_costs_its_limit_and_stops_nothing(limited):
  pairs = []
  for i in range(200):
    bad = i % 50 == 0
    pred = SLOW % (300 + i, 300 + i) if bad else rf'{i}\sqrt2'
    pairs.append((problem('x' if bad else rf'\sqrt{{{2 * i * i}}}'), pred))
  start = time.monotonic()
  reasons = [v.reason for v in limited.grade(pairs)]
  wall = time.monotonic() - start
  assert [reasons[i] for i in range(0, 200, 50)] == ['timeout'] * 4
  # A busy machine may time out another; none is called wrong.
  assert set(reasons) <= {'correct', 'timeout'}
  assert reasons.count('timeout') < 10
  assert wall < 20


def test_a_worker_that_dies_is_an_error_not_wrong(stub, tmp_path):
  stub('os._exit(1)')
  memo = tmp_path / 'memo.jsonl'
  with MathGrader(extract=whole, memo_path=memo) as grader:
    verdict = base.score(grader, problem('x'), 'y+1')
    assert (verdict.reason, verdict.reward) == ('error', 0.0)
    assert verdict.failure == 'the worker died twice'
    assert not grader.equivalent('x', 'y+1')
  assert not memo.exists()  # it may go better next time


def test_out_of_memory_is_oom(stub):
  stub('bytearray(1 << 40)')
  with MathGrader(extract=whole) as grader:
    assert base.score(grader, problem('x'), 'y+1').reason == 'oom'


def test_workers_that_cannot_start_are_no_verdict(monkeypatch):
  monkeypatch.setattr(math_lib, '_WORKER', 'no_such_module')
  with MathGrader(extract=whole) as grader, pytest.raises(pool.StartError):
    base.score(grader, problem('x'), 'y+1')


def test_without_math_verify_says_what_to_write(monkeypatch):
  monkeypatch.setattr(math_lib, '_NEEDS', ('no_such_package',))
  with pytest.raises(ValueError, match=r'MathGrader\.symbolic = False'):
    MathGrader()
  MathGrader(symbolic=False).close()


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_gets_a_verdict_and_equivalence_is_symmetric(a, b):
  with MathGrader(extract=whole, symbolic=False) as grader:
    assert grader.equivalent(a, b) == grader.equivalent(b, a)
    assert base.score(grader, problem(a), b).reason in (
      'correct', 'wrong', 'no_answer',
    )  # fmt: skip
