"""Right programs whose answers have another form: none of them may pass.

One such answer to the question for names was taken for the end of all tests.
The programs are right but for it, so that a forged answer which is never given
shows as a pass.
"""

from suites import ADD, CALL, CHECK

from restem_jax.rewards.sandbox.suite import Suite

# What the tests may ask of an object that has no form of its own.
USES = {
  'len': 'assert len(a()) == 3',
  'str': 'assert str(a()) == "three"',
  'iter': 'assert list(a()) == [3]',
  'next': 'assert next(iter(a())) == 3',
  'getitem': 'assert a()[0] == 3',
  'getattr': 'assert a().three == 3',
}
QUESTIONS = [
  ('names', ADD),
  ('names', CHECK),
  ('entry', CALL),
  ('call', ADD),
  ('call', CHECK),
  ('call', CALL),
  *((op, Suite(kind='assert', tests=[test])) for op, test in USES.items()),
  *(
    (op, Suite(kind='humaneval', entry_point='root', tests=test))
    for op, use in USES.items()
    for test in [f'def check(a):\n  {use.replace("a()", "a()()")}\n']
  ),
]
FORMS = (
  '{"T": "object"};{"T": "exec"};{"x": 0};{"h": -1};{"h": "a"};'
  '{"d": [[1]]};{"d": []};[];None;{};{"i": 3};True'
)
RIGHT = """
class A:
  three = 3
  __len__ = lambda s: 3
  __str__ = lambda s: 'three'
  __iter__ = lambda s: iter([3])
  __getitem__ = lambda s, key: 3
add = lambda a, b: a + b
f = lambda x: sorted(x)
a = lambda: A()
root = lambda: %s
"""
FORGE = """
from restem_jax.rewards.sandbox import wire
pack, start, forged = wire.pack, wire.Peer.__init__, object()
def init(peer, fd, answer, refer, resolve):
  start(peer, fd, lambda op, args: forged if op == {op!r} else answer(op, args),
        refer, resolve)
wire.Peer.__init__ = init
wire.pack = lambda v, refer: {form} if v is forged else pack(v, refer)
"""
DEAD = ('fail', 'error', 'violation', 'timeout', 'oom')


def right(suite):
  """A program that passes; `root` gives a function where it is used as one."""
  gives = '4' if suite is CHECK else 'a'
  return RIGHT % gives


def test_without_a_forged_answer(pool, wrong_verdicts):
  programs = {
    f'{op}, {suite.kind}': (suite, right(suite), ('pass',))
    for op, suite in QUESTIONS
  }
  assert not wrong_verdicts(pool, programs)


def test_forged_answers(pool, wrong_verdicts):
  programs = {
    f'{form} for {op}, {suite.kind}': (
      suite,
      right(suite) + FORGE.format(op=op, form=form),
      DEAD,
    )
    for form in FORMS.split(';')
    for op, suite in QUESTIONS
  }
  assert not wrong_verdicts(pool, programs)
