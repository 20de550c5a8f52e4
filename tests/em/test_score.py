import logging

import fusion_server
import pytest

from restem_jax import shards
from restem_jax.em import generate, score
from restem_jax.records import Problem, Sample, to_json
from restem_jax.rewards import base, code, extraction, remote
from restem_jax.rewards.math import MathGrader

PROBLEMS = [Problem(id=f'p{i}', question=f'item {i}', answer=str(i))
            for i in range(4)]  # fmt: skip


def sample(problem, index, text, finish='stop'):
  return Sample(
    problem_id=problem,
    index=index,
    iteration=1,
    seed=0,
    text=text,
    token_ids=(1,),
    logprobs=(0.0,),
    finish=finish,
  )


# Two shards: (reason expected, sample).
SHARDS = [
  [
    ('correct', sample('p0', 0, '0')),
    ('truncated', sample('p0', 1, '0', finish='length')),
    ('wrong', sample('p1', 0, '0')),
    ('correct', sample('p1', 1, ' 1.0', finish='eos')),
  ],
  [
    ('no_answer', sample('p2', 0, '')),
    ('correct', sample('p2', 1, '2')),
    ('truncated', sample('p3', 0, '', finish='length')),
    ('correct', sample('p3', 1, '6/2')),
  ],
]


@pytest.fixture
def grader():
  with MathGrader(extract=extraction.first_line, symbolic=False) as grader:
    yield grader


def write(directory, chunks=(0, 1)):
  for c in chunks:
    path = generate.shard_path(directory, 'samples', c)
    shards.write_shard(path, [to_json(s) for _, s in SHARDS[c]])


def run(directory, grader, **more):
  return score.score(directory, PROBLEMS, 2, grader, 'test', **more)


def check(directory):
  found = list(score.read_scored(directory, 2))
  rows = [row for shard in SHARDS for row in shard]
  assert [f.sample for f in found] == [s for _, s in rows]
  assert [f.verdict.reason for f in found] == [reason for reason, _ in rows]
  for f in found:
    assert f.verdict.reward == (f.verdict.reason == 'correct')


def test_verdicts_in_the_order_of_the_samples(directory, grader):
  write(directory)
  run(directory, grader)
  check(directory)


def test_truncated_samples_are_never_rewarded(grader):
  problems = {p.id: p for p in PROBLEMS}
  texts = ['3', ' 3 ', 'Answer: 3', '3.0', '3\n', '']
  cut = [sample('p3', i, text, 'length') for i, text in enumerate(texts)]
  ended = [sample('p3', i, text) for i, text in enumerate(texts)]
  verdicts = list(score.grade(cut, problems, grader))
  assert {(v.reward, v.reason) for v in verdicts} == {(0.0, 'truncated')}
  assert sum(v.reward for v in score.grade(ended, problems, grader)) == 5
  # Between others they take no one else's verdict.
  mixed = [x for pair in zip(cut, ended, strict=True) for x in pair]
  reasons = [v.reason for v in score.grade(mixed, problems, grader)]
  assert reasons[::2] == ['truncated'] * 6
  assert reasons[1::2] == ['correct'] * 5 + ['no_answer']


@pytest.mark.parametrize('damage', ['flip', 'gone', 'no marker'])
def test_only_what_is_missing_is_scored(directory, grader, damage):
  write(directory)
  run(directory, grader)
  before = {p.name: p.read_bytes() for p in directory.iterdir()}
  path = generate.shard_path(directory, 'verdicts', 1)
  kept = generate.shard_path(directory, 'verdicts', 0).stat().mtime
  if damage == 'flip':
    path.write_bytes(path.read_bytes().replace(b'1.0', b'0.0', 1))
  elif damage == 'gone':
    path.unlink()
  else:
    (directory / f'{path.name}.done').unlink()
  (directory / f'{path.name}.tmp-ab').write_text('half')
  run(directory, grader)
  assert {p.name: p.read_bytes() for p in directory.iterdir()} == before
  assert generate.shard_path(directory, 'verdicts', 0).stat().mtime == kept


@pytest.mark.parametrize('damage', ['missing', 'damaged'])
def test_samples_must_be_complete(directory, grader, damage):
  write(directory, [0])
  path = generate.shard_path(directory, 'samples', 1)
  if damage == 'damaged':
    write(directory, [1])
    path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(ValueError, match='run --run_mode=generate first') as e:
    run(directory, grader)
  assert str(path) in str(e.value)


class Down:
  """A grader that fails on the texts of `down`; others go to `grader`."""

  votes = True

  def __init__(self, grader, down):
    self.grader, self.down, self.asked = grader, down, []

  def grade(self, pairs):
    for problem, text in pairs:
      self.asked.append(text)
      if text in self.down:
        yield base.verdict('error', failure='infra: the server is down')
      else:
        yield base.score(self.grader, problem, text)


def test_what_the_grader_failed_on_is_graded_again(directory, grader, caplog):
  write(directory)
  run(directory, Down(grader, {' 1.0', '0', '2'}))
  failed = [s.verdict.counted_as for s in score.read_scored(directory, 2)]
  assert failed.count('grader_error') == 4
  before = {p.name: p.read_bytes() for p in directory.iterdir()}
  # Still down: the files stay, and the log says so.
  still = Down(grader, {' 1.0', '0', '2'})
  with caplog.at_level(logging.INFO):
    assert run(directory, still) == 0
  assert {p.name: p.read_bytes() for p in directory.iterdir()} == before
  assert 'graded again: 0 given; the others fail still (infra' in caplog.text
  # Up again, but for one: nothing else is asked.
  up = Down(grader, {' 1.0'})
  assert run(directory, up) == 3
  assert up.asked == ['0', '0', ' 1.0', '2']
  up.down, up.asked = set(), []
  assert run(directory, up) == 1
  assert up.asked == [' 1.0']
  check(directory)
  assert run(directory, up) == 0
  assert up.asked == [' 1.0']


def test_a_remote_engine_that_was_down(directory, tmp_path):
  """What a first run could not grade, a second one does."""
  tests = [{'stdin': '3', 'stdout': '6'}]
  meta = {'kind': 'stdio', 'tests': tests}
  problem = Problem(id='twice', question='', answer='', meta=meta)
  programs = ('print(2 * int(input()))', 'print(input())', '1 / 0')
  path = generate.shard_path(directory, 'samples', 0)
  samples = [sample('twice', i, text) for i, text in enumerate(programs)]
  shards.write_shard(path, map(to_json, samples))

  def run(port):
    url = f'http://127.0.0.1:{port}'
    engine = remote.SandboxFusion(url, attempts=2, backoff_s=0.01)
    grader = code.CodeGrader(engine=engine, extract=lambda text: text)
    score.score(directory, [problem], 1, grader, 'test')
    grader.close()
    return [s.verdict.counted_as for s in score.read_scored(directory, 1)]

  with fusion_server.serving(tmp_path) as server:
    port = server.server_port
  assert run(port) == ['grader_error'] * 3
  with fusion_server.serving(tmp_path, port) as server:
    assert run(port) == ['correct', 'wrong', 'error']
    asked = len(server.requests)
    assert run(port) == ['correct', 'wrong', 'error']
    assert len(server.requests) == asked


def test_in_the_background(directory, grader):
  with score.in_background(directory, PROBLEMS, grader) as written:
    for c in (1, 0):
      write(directory, [c])
      written(c)
  check(directory)


def test_what_fails_in_the_background_is_raised(directory, grader):
  with pytest.raises(ValueError, match=r'samples-00001\.jsonl is not complete'):
    with score.in_background(directory, PROBLEMS, grader) as written:
      written(1)


def test_right_and_wrong_samples_are_logged(directory, grader, caplog):
  write(directory)
  with caplog.at_level(logging.INFO):
    run(directory, grader, log_samples=1)
  assert [r.getMessage() for r in caplog.records] == [
    "test: right: 'item 0' asked for '0': '0' (correct)",
    "test: wrong: 'item 1' asked for '1': '0' (wrong)",
  ]
