"""Against a server on this machine that speaks SandboxFusion's API.

It runs the tests' own harmless programs in plain subprocesses, and fails on
demand as the real one does.
"""

import base64
import http.server
import json
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from restem_jax.records import Problem
from restem_jax.rewards.code import CodeGrader
from restem_jax.rewards.remote import SandboxFusion
from restem_jax.rewards.sandbox.suite import Limits, Suite


class Handler(http.server.BaseHTTPRequestHandler):
  def do_POST(self):
    assert self.path == '/run_code'
    length = int(self.headers['Content-Length'])
    request = json.loads(self.rfile.read(length))
    self.server.requests.append(request)
    failure = self.server.failures.pop(0) if self.server.failures else None
    if isinstance(failure, int):
      self.send_error(failure)
      return
    body = failure or json.dumps(self.run(request)).encode()
    self.send_response(200)
    self.end_headers()
    self.wfile.write(body)

  def run(self, request):
    folder = pathlib.Path(self.server.folder)
    assert request['language'] == 'python'
    for name, content in request['files'].items():
      (folder / name).write_bytes(base64.b64decode(content))
    start = time.monotonic()
    try:
      done = subprocess.run(
        [sys.executable, '-c', request['code']],
        input=request.get('stdin', ''),
        capture_output=True,
        text=True,
        timeout=request['run_timeout'],
        cwd=folder,
      )
      result = {
        'status': 'Finished',
        'return_code': done.returncode,
        'stdout': done.stdout,
        'stderr': done.stderr,
      }
    except subprocess.TimeoutExpired:
      result = {'status': 'TimeLimitExceeded', 'return_code': None}
    ok = result.get('return_code') == 0
    return {
      'status': 'Success' if ok else 'Failed',
      'message': '',
      'run_result': result | {'execution_time': time.monotonic() - start},
      'files': {
        name: base64.b64encode((folder / name).read_bytes()).decode()
        for name in request['fetch_files']
        if (folder / name).exists()
      },
    }

  def log_message(self, *args):
    pass


@pytest.fixture
def server(tmp_path):
  server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
  server.requests, server.failures, server.folder = [], [], tmp_path
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  yield server
  server.shutdown()
  thread.join()
  server.server_close()


@pytest.fixture
def engine(server):
  url = f'http://127.0.0.1:{server.server_port}'
  return SandboxFusion(url, attempts=3, backoff_s=0.01)


ECHO = Suite(
  kind='stdio',
  tests=[
    {'stdin': 'one', 'stdout': 'one\n'},
    {'stdin': 'é', 'stdout': 'é\n'},
  ],
)
CALLS = Suite(
  kind='call',
  entry_point='Solution.f',
  tests=[
    {'args': [[1, 2]], 'expected': [2, 1]},
    {'args': [[10**30]], 'expected': [10**30]},
  ],
)
LIMITS = Limits(wall_s=10)


def method(body):
  return f'class Solution:\n  def f(self, x):\n    {body}'


def test_stdio(engine, server):
  assert engine.judge('print(input())', ECHO, LIMITS).status == 'pass'
  assert engine.judge('print("one")', ECHO, LIMITS).status == 'fail'
  assert engine.judge('print(input()); 1/0', ECHO, LIMITS).status == 'error'
  assert engine.judge('raise MemoryError', ECHO, LIMITS).status == 'oom'
  short = Limits(wall_s=0.3)
  sleepy = 'import time; time.sleep(5)'
  assert engine.judge(sleepy, ECHO, short).status == 'timeout'
  # Expected values never leave this machine.
  assert all('stdout' not in json.dumps(r) for r in server.requests)


def test_calls(engine):
  for body, status in (
    ('return x[::-1]', 'pass'),
    ('return tuple(x[::-1])', 'pass'),
    ('return x', 'fail'),
    ('print(x); return set(x)', 'fail'),
    ('return object()', 'fail'),
    ('raise ValueError', 'error'),
    ('raise MemoryError', 'oom'),
    ('import os; os._exit(0)', 'error'),
  ):
    assert engine.judge(method(body), CALLS, LIMITS).status == status, body
  assert engine.judge('x = 1', CALLS, LIMITS).status == 'error'
  assert engine.judge('def f(:', CALLS, LIMITS).status == 'error'


FAILURES = [
  500,
  504,
  b'not json',
  b'[' * 100_000,
  b'{"status": "SandboxError", "message": "x", "run_result": null}',
  b'{}',
]


def test_failures_are_retried(engine, server):
  for failure in FAILURES:
    server.failures = [failure, failure]
    outcome = engine.judge('print(input())', ECHO, LIMITS)
    assert outcome.status == 'pass', failure


def test_then_counted_apart(engine, server):
  server.failures = [500] * 3
  outcome = engine.judge('print(input())', ECHO, LIMITS)
  assert (outcome.status, outcome.detail) == ('infra', 'HTTP 500')
  assert len(server.requests) == 3


def test_no_server():
  engine = SandboxFusion('http://127.0.0.1:9', attempts=2, backoff_s=0.01)
  assert engine.judge('x', ECHO, LIMITS).status == 'infra'


def test_with_the_grader(engine, server):
  """Same problems and verdicts as with the local engine."""
  grader = CodeGrader(engine=engine)
  problem = Problem(
    id='echo',
    question='',
    answer='',
    solution='print(input())',
    meta={'kind': 'stdio', 'tests': list(ECHO.tests)},
  )
  assert grader.check_gold([problem]) == []
  server.failures = [500] * 3
  (verdict,) = grader.grade([(problem, '```python\nprint(2)\n```')])
  assert verdict.reason == 'error' and verdict.failure.startswith('infra: ')
  assert grader.counts()['infra'] == 1
  grader.close()


def test_literal_asserts(engine):
  suite = Suite(
    kind='assert',
    tests=[
      'assert f((1, 2), {3}) == {1, 2, 3}',
      "assert f([], {'a'}) == {'a'}\r\n",
    ],
  )
  judge = lambda program: engine.judge(program, suite, LIMITS).status
  assert judge('def f(x, y): return set(x) | y') == 'pass'
  assert judge('def f(x, y): return list(x) + list(y)') == 'fail'
  assert judge('def f(x, y): return set(range(10**4))') == 'fail'
  assert judge('def g(x): return x') == 'error'


LOCAL = [
  'assert f(1)',
  'assert set(f(1)) == {1}',
  'assert f(g(1)) == 1',
  'assert f(x=1) == 1',
  'assert f(1) == 1 == 1',
  'assert f(',
]


@pytest.mark.parametrize('test', LOCAL)
def test_says_what_needs_the_local_engine(engine, test):
  suite = Suite(kind='assert', tests=[test])
  with pytest.raises(ValueError, match='use SandboxPool'):
    engine.judge('def f(x): return x', suite, LIMITS)


def test_says_what_an_url_is():
  with pytest.raises(ValueError, match='http://host:port'):
    SandboxFusion('localhost:8080')


def test_outputs_that_the_server_would_cut(engine):
  suite = Suite(kind='stdio', tests=[{'stdin': '', 'stdout': 'x' * 200_000}])
  assert engine.judge('print("x" * 200000)', suite, LIMITS).status == 'broken'
