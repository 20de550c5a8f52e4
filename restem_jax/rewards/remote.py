"""Runs programs on a SandboxFusion server, so that a cluster can help.

In and out: as `sandbox.host.SandboxPool` (both are a `sandbox.suite.Engine`).
The server only runs programs (`POST /run_code`): inputs go there, expected
values stay here and outputs are compared here. Its `/submit` is not used: it
grades by its own rules, and passes a program that exits with status 0. The
PyPI client `sandbox-fusion` was not taken: it adds a retry loop and a data
model to one POST request.

'stdio' and 'call' run remotely, and 'assert' where every statement has the
form `assert f(literals) == literal` (371 of MBPP's 374 training problems).
Other tests ask the program, look, and ask again; over HTTP each question would
be a new process, so they need the local engine, and are refused here.

How well programs are kept in is the server's affair. An error of the server
or the network is retried, then counted as 'infra', never as wrong.
"""

import ast
import base64
import builtins
from collections.abc import Callable, KeysView, Mapping
import dataclasses
import inspect
import itertools
import json
import logging
import secrets
import time
from typing import Any
import urllib.error
import urllib.request

from restem_jax.rewards.sandbox import compare, wire
from restem_jax.rewards.sandbox.suite import Limits, Outcome, Suite

# The server cuts longer outputs off (SandboxFusion#62: at 160,910).
_MAX_OUTPUT = 128 << 10
_MAX_REPLY = 8 << 20
_NETWORK_S = 10.0
_MAX_HASHED = 2000  # elements of a set or dict

# Runs on the server: calls into the program, answers into a file with a name
# that the program can't guess beforehand. The program may still write there,
# but only what it could have returned.
_DRIVER = """
import json, sys
sys.path.insert(0, '.')
import wire
job = json.load(open('job.json'))
names = {{'__name__': 'solution'}}
answers = []
try:
  exec(compile(open('solution.py', 'rb').read(), 'solution.py', 'exec'), names)
  head, _, method = job['entry_point'].partition('.')
  f = getattr(names[head](), method) if method else names[head]
  for args in wire.unpack(job['args'], None):
    answers.append({{'v': wire.pack(f(*args), lambda v: {{'h': 0}})}})
except BaseException as e:
  answers.append({{'e': type(e).__name__}})
with open({result!r}, 'w') as out:
  json.dump(answers, out)
"""


class _Unavailable(Exception):
  """The server or the way to it failed."""


class SandboxFusion:
  """Engine over HTTP. See `sandbox.suite.Engine`."""

  def __init__(
    self,
    url: str,
    *,
    concurrency: int = 16,
    attempts: int = 4,
    backoff_s: float = 0.5,
  ):
    """Sends nothing yet.

    Args:
      url: of the server, 'http://host:8080'.
      concurrency: requests in flight at a time.
      attempts: tries of one request before it counts as 'infra'.
      backoff_s: pause after the first failure; doubles each time.
    """
    if not url.startswith(('http://', 'https://')):
      raise ValueError(f'SandboxFusion.url = {url!r}: write http://host:port')
    if attempts < 1 or concurrency < 1:
      raise ValueError('SandboxFusion: attempts and concurrency must be >= 1')
    self._url = url.rstrip('/') + '/run_code'
    self._concurrency = concurrency
    self._attempts = attempts
    self._backoff_s = backoff_s

  @property
  def concurrency(self) -> int:
    """Requests in flight at a time."""
    return self._concurrency

  def describe(self) -> Mapping[str, Any]:
    """{'engine': 'sandbox_fusion', 'url'}."""
    return {'engine': 'sandbox_fusion', 'url': self._url}

  def close(self) -> None:
    """Nothing is held open."""

  def judge(self, program: str, suite: Suite, limits: Limits) -> Outcome:
    """Runs the program on the server. See `sandbox.suite.Engine`.

    Raises:
      ValueError: for suites that need the local engine.
    """
    if not suite.tests:
      return Outcome(status='broken', detail='no tests')
    calls = _calls(suite)
    if suite.kind != 'stdio' and calls is None:
      raise ValueError(
        f'these tests (kind {suite.kind!r}) need the local engine: use '
        'SandboxPool, not SandboxFusion'
      )
    start = time.monotonic()
    try:
      if calls is None:
        status, detail, spent = self._judge_output(program, suite, limits)
      else:
        status, detail, spent = self._judge_calls(program, calls, limits)
    except _Unavailable as e:
      status, detail, spent = 'infra', str(e), time.monotonic() - start
    return Outcome(status=status, detail=detail, wall_s=spent)

  def _judge_output(
    self, program: str, suite: Suite, limits: Limits
  ) -> tuple[str, str, float]:
    spent = 0.0
    for number, test in enumerate(suite.tests):
      expected = test['stdout'].encode()
      if len(expected) > _MAX_OUTPUT:
        return 'broken', f'test {number}: output too long for the server', 0.0
      result, _ = self._run(
        {'code': program, 'stdin': test['stdin']}, limits, spent
      )
      spent += result.get('execution_time') or 0.0
      status, detail = _classify(result, limits, spent)
      output = (result.get('stdout') or '').encode('utf-8', 'surrogatepass')
      if status == 'pass' and not compare.same_output(
        expected, output, suite.compare
      ):
        status, detail = 'fail', 'wrong output'
      if status != 'pass':
        return status, f'test {number}: {detail}', spent
    return 'pass', '', spent

  def _judge_calls(
    self, program: str, calls: '_Calls', limits: Limits
  ) -> tuple[str, str, float]:
    name = f'answers-{secrets.token_hex(16)}.json'
    job = {
      'entry_point': calls.function,
      'args': wire.pack(calls.args, _no_reference),
    }
    files = {
      'solution.py': program.encode('utf-8', 'surrogatepass'),
      'wire.py': inspect.getsource(wire).encode(),
      'job.json': json.dumps(job).encode(),
    }
    result, fetched = self._run(
      {
        'code': _DRIVER.format(result=name),
        'files': {k: base64.b64encode(v).decode() for k, v in files.items()},
        'fetch_files': [name],
      },
      limits,
      0.0,
    )
    spent = result.get('execution_time') or 0.0
    status, detail = _classify(result, limits, spent)
    if status != 'pass':
      return status, detail, spent
    return *_compare_answers(calls, fetched.get(name)), spent

  def _run(
    self, request: dict[str, Any], limits: Limits, spent: float
  ) -> tuple[dict[str, Any], dict[str, str]]:
    """The server's run_result and fetched files, after retries."""
    left = max(limits.wall_s - spent, 0.1)
    body = {
      'language': 'python',
      'run_timeout': left,
      'memory_limit_MB': limits.memory_mib,
      'files': {},
      'fetch_files': [],
      **request,
    }
    pause = self._backoff_s
    for attempt in range(1, self._attempts + 1):
      try:
        return self._post(body, left + _NETWORK_S)
      except _Unavailable as e:
        logging.warning('%s, try %d: %s', self._url, attempt, e)
        if attempt == self._attempts:
          raise
        time.sleep(pause)
        pause *= 2
    raise AssertionError('unreachable')

  def _post(
    self, body: dict[str, Any], timeout_s: float
  ) -> tuple[dict[str, Any], dict[str, str]]:
    request = urllib.request.Request(
      self._url,
      json.dumps(body).encode(),
      {'Content-Type': 'application/json'},
    )
    try:
      with urllib.request.urlopen(request, timeout=timeout_s) as response:
        data = response.read(_MAX_REPLY + 1)
      reply = json.loads(data)
      status, result = reply['status'], reply['run_result']
    except urllib.error.HTTPError as e:
      e.close()
      raise _Unavailable(f'HTTP {e.code}') from e
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as e:
      raise _Unavailable(f'{type(e).__name__}: {e}') from e
    if status == 'SandboxError' or not isinstance(result, dict):
      raise _Unavailable(f'{status}: {reply.get("message")}')
    return result, reply.get('files') or {}


def _classify(
  result: dict[str, Any], limits: Limits, spent: float
) -> tuple[str, str]:
  """Status from the server's word on the process; it has none for memory."""
  if result.get('status') == 'TimeLimitExceeded' or spent > limits.wall_s:
    return 'timeout', 'wall time'
  code = result.get('return_code')
  if result.get('status') == 'Finished' and code == 0:
    return 'pass', ''
  if 'MemoryError' in (result.get('stderr') or '')[-200:]:
    return 'oom', 'MemoryError'
  return 'error', f'exit status {code}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Calls:
  """Calls of one function that can be made without seeing an answer."""

  function: str
  args: list[list[Any]]
  expected: list[Any]
  same: Callable[[Any, Any], bool]


def _calls(suite: Suite) -> _Calls | None:
  """A suite as calls; None if it can't be said so."""
  if suite.kind == 'call':
    return _Calls(
      function=suite.entry_point,
      args=[test['args'] for test in suite.tests],
      expected=[test['expected'] for test in suite.tests],
      same=compare.same_value,
    )
  if suite.kind != 'assert' or suite.setup.strip():
    return None
  try:
    found = [_literal_call(test) for test in suite.tests]
  except (SyntaxError, ValueError, RecursionError):
    return None
  functions = {function for function, _, _ in found}
  if len(functions) > 1:
    return None
  return _Calls(
    function=functions.pop(),
    args=[args for _, args, _ in found],
    expected=[expected for _, _, expected in found],
    same=lambda expected, actual: bool(actual == expected),
  )


def _literal_call(test: str) -> tuple[str, list[Any], Any]:
  """Function, arguments and result of `assert f(literals) == literal`."""
  match ast.parse(test.strip()).body:
    case [
      ast.Assert(
        test=ast.Compare(
          left=ast.Call(func=ast.Name(id=function), args=args, keywords=[]),
          ops=[ast.Eq()],
          comparators=[expected],
        )
      )
    ] if function not in vars(builtins):
      return (
        function,
        [ast.literal_eval(a) for a in args],
        ast.literal_eval(expected),
      )
  raise ValueError(test)


def _no_reference(value: Any) -> Any:
  raise ValueError(f'not a plain value: {type(value).__name__}')


def _compare_answers(calls: _Calls, encoded: str | None) -> tuple[str, str]:
  try:
    answers = json.loads(base64.b64decode(encoded or ''))
    for number, expected in enumerate(calls.expected):
      answer = answers[number]
      if 'e' in answer:
        status = 'oom' if answer['e'] == 'MemoryError' else 'error'
        return status, f'test {number}: {answer["e"]}'
      if not calls.same(expected, _plain(answer['v'], expected)):
        return 'fail', f'test {number}: a wrong result'
  except (ValueError, RecursionError, LookupError, TypeError) as e:
    return 'error', f'unreadable answers: {type(e).__name__}'
  return 'pass', ''


def _plain(data: Any, expected: Any = None) -> Any:
  """What `wire.pack` made, as far as it could equal `expected`.

  Not `wire.unpack`: this is the host, and sets of numbers chosen to collide
  would keep it busy for hours. So no set or dict is made but where one of that
  size is expected. All else becomes an object equal to nothing.
  """
  if isinstance(data, list):
    return _plain_items(data, expected)
  if not isinstance(data, dict):
    return data
  ((tag, body),) = data.items()
  match tag:
    case 'i':
      return int(body, 16)
    case 'b':
      return bytes.fromhex(body)
    case 'c':
      return complex(*body)
    case 't':
      return tuple(_plain_items(body, expected))
    case 's' if _may_be(body, expected, set):
      items = [_plain(v) for v in body]
      if _weight(items) <= _weight(expected):
        return set(items)
    case 'd' if _may_be(body, expected, dict):
      keys = [_plain(k) for k, _ in body]
      if _weight(keys) <= _weight(expected.keys()):
        return {
          key: _plain(value, expected.get(key))
          for key, (_, value) in zip(keys, body, strict=True)
        }
  return object()


def _may_be(body: Any, expected: Any, kind: type) -> bool:
  return isinstance(expected, kind) and (
    len(body) == len(expected) <= _MAX_HASHED
  )


def _plain_items(data: list[Any], expected: Any) -> list[Any]:
  """Each beside the one expected in its place, if any."""
  beside = expected if isinstance(expected, list | tuple) else ()
  return [
    _plain(value, other)
    for value, other in itertools.zip_longest(data, beside[: len(data)])
  ]


def _weight(value: Any) -> int:
  """What one comparison with an equal value may cost."""
  if isinstance(value, list | tuple | set | KeysView):
    return 1 + sum(map(_weight, value))
  return 1 + value.bit_length() // 64 if isinstance(value, int) else 1
