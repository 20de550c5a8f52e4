import errno
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time

from etils import epath
from hypothesis import given, strategies as st
import pytest

from restem_jax import shards


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_layout_on_disk(tmp_path):
  path = tmp_path / 'samples' / '0.jsonl'
  shards.write_shard(path, iter(['{"a":1}', '{"b":"é"}']))
  data = '{"a":1}\n{"b":"é"}\n'.encode()
  assert path.read_bytes() == data
  assert json.loads((tmp_path / 'samples' / '0.jsonl.done').read_text()) == {
    'sha256': hashlib.sha256(data).hexdigest(),
    'rows': 2,
    'bytes': 19,
  }
  assert names(path.parent) == ['0.jsonl', '0.jsonl.done']
  assert shards.status(path) == 'complete'
  assert shards.read_shard(path) == [{'a': 1}, {'b': 'é'}]


def test_equal_rows_give_equal_files(tmp_path):
  for name in ('a', 'b'):
    shards.write_shard(tmp_path / name, ['[1]', '[2]'])
  for suffix in ('', '.done'):
    one, two = (tmp_path / f'{name}{suffix}' for name in ('a', 'b'))
    assert one.read_bytes() == two.read_bytes()


def test_no_rows_are_a_whole_shard_too(tmp_path):
  shards.write_shard(tmp_path / 'x', [])
  assert shards.status(tmp_path / 'x') == 'complete'
  assert shards.read_shard(tmp_path / 'x') == []


# Any text, line separators and halves of surrogate pairs included.
texts = st.text(st.characters(exclude_categories=()))


@given(rows=st.lists(st.dictionaries(texts, texts)))
def test_round_trip(tmp_path_factory, rows):
  path = tmp_path_factory.mktemp('round') / 'x.jsonl'
  lines = [json.dumps(row, ensure_ascii=False) for row in rows]
  shards.write_shard(path, lines)
  assert shards.read_shard(path) == rows
  path.read_bytes().decode()  # UTF-8 for others who read it


def test_a_newline_in_a_row_is_a_bug(tmp_path):
  with pytest.raises(AssertionError, match='newline'):
    shards.write_shard(tmp_path / 'x', ['{\n}'])
  assert names(tmp_path) == []


def test_a_flipped_bit_is_named_and_never_used(tmp_path, caplog):
  path = tmp_path / 'x.jsonl'
  shards.write_shard(path, ['{"a":1}'])
  good = hashlib.sha256(path.read_bytes()).hexdigest()
  path.write_bytes(b'{"a":3}\n')  # 1 and 3 differ by a bit
  bad = hashlib.sha256(path.read_bytes()).hexdigest()
  with caplog.at_level(logging.WARNING):
    assert shards.status(path) == 'damaged'
  (line,) = caplog.messages
  for word in (str(path), f'expected sha256 {good}', f'found {bad}'):
    assert word in line
  with pytest.raises(ValueError, match=f'{path}.*{good}.*{bad}'):
    shards.read_shard(path)
  shards.write_shard(path, ['{"a":1}'])
  assert shards.status(path) == 'complete'


@pytest.mark.parametrize('content', [b'', b'{"sha25', b'[]', b'{}', b'\xff'])
def test_a_damaged_marker(tmp_path, content, caplog):
  path = tmp_path / 'x.jsonl'
  shards.write_shard(path, ['1'])
  (tmp_path / 'x.jsonl.done').write_bytes(content)
  assert shards.status(path) == 'damaged'
  assert 'x.jsonl.done is damaged' in caplog.text


@pytest.mark.parametrize('gone', ['x.jsonl', 'x.jsonl.done'])
def test_missing(tmp_path, gone):
  path = tmp_path / 'x.jsonl'
  assert shards.status(path) == 'missing'
  shards.write_shard(path, ['1'])
  (tmp_path / gone).unlink()
  assert shards.status(path) == 'missing'
  with pytest.raises(ValueError, match=gone):
    shards.read_shard(path)


def failing_rows():
  yield '1'
  raise RuntimeError('a generator fails')


def test_a_failure_leaves_nothing(tmp_path):
  with pytest.raises(RuntimeError, match='a generator fails'):
    shards.write_shard(tmp_path / 'x', failing_rows())
  assert names(tmp_path) == []


def test_a_redo_that_fails_leaves_no_vouched_shard(tmp_path):
  path = tmp_path / 'x'
  shards.write_shard(path, ['0'])
  with pytest.raises(RuntimeError):
    shards.write_shard(path, failing_rows())
  assert shards.status(path) == 'missing'


@pytest.mark.skipif(
  not os.path.exists('/dev/full'), reason='no /dev/full on this system'
)
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
  # The temporary file leads to a device that is always full.
  monkeypatch.setattr(shards.secrets, 'token_hex', lambda _: 'feed')
  (tmp_path / 'x.tmp-feed').symlink_to('/dev/full')
  with pytest.raises(OSError) as error:
    shards.write_shard(tmp_path / 'x', ['1' * 100_000])
  assert error.value.errno == errno.ENOSPC
  assert names(tmp_path) == []
  (tmp_path / 'x.tmp-feed').symlink_to('/dev/full')
  with pytest.raises(OSError):
    shards.write_atomic(tmp_path / 'x', 'short')
  assert names(tmp_path) == []


def test_write_atomic(tmp_path):
  path = tmp_path / 'new' / 'select.json'
  shards.write_atomic(path, '{"é": 1}')
  assert path.read_bytes() == '{"é": 1}'.encode()
  shards.write_atomic(epath.Path(path), b'\xff')
  assert path.read_bytes() == b'\xff'
  assert names(path.parent) == ['select.json']


def test_clean_takes_leftovers_only(tmp_path):
  shards.write_shard(tmp_path / 'host0-0.jsonl', ['1'])
  leftovers = ['host0-1.jsonl.tmp-01', 'host0-0.jsonl.done.tmp-02']
  for name in [*leftovers, 'host1-0.jsonl.tmp-03', 'notes.tmp']:
    (tmp_path / name).write_text('x')
  # Another host may be writing its own.
  assert shards.clean(tmp_path, 'host0-*') == sorted(leftovers)
  assert shards.clean(tmp_path) == ['host1-0.jsonl.tmp-03']
  assert names(tmp_path) == [
    'host0-0.jsonl',
    'host0-0.jsonl.done',
    'notes.tmp',
  ]
  assert shards.clean(tmp_path / 'nowhere') == []


WRITER = """
import sys
from restem_jax import shards

def rows():
  for i in range(10**9):
    if i == 5:
      print('half', flush=True)
    yield '{"x": "%s"}' % ('y' * 10_000)

shards.write_shard(sys.argv[1], rows())
"""


def test_sigkill_leaves_no_shard(tmp_path):
  path = tmp_path / 'x.jsonl'
  root = os.path.dirname(os.path.dirname(shards.__file__))
  with subprocess.Popen(
    [sys.executable, '-c', WRITER, str(path)],
    stdout=subprocess.PIPE,
    env=dict(os.environ, PYTHONPATH=root),
  ) as writer:
    assert writer.stdout is not None
    assert writer.stdout.readline() == b'half\n'
    time.sleep(0.05)
    writer.send_signal(signal.SIGKILL)
  assert shards.status(path) == 'missing'
  (leftover,) = names(tmp_path)
  assert shards.clean(tmp_path) == [leftover]
  shards.write_shard(path, ['1'])
  assert names(tmp_path) == ['x.jsonl', 'x.jsonl.done']
