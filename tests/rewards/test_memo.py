"""Tests of restem_jax.rewards.memo."""

import json

from restem_jax.rewards import memo as memo_lib


def _filled(path):
  memo = memo_lib.Memo(path)
  memo.put(('1', 'x'), 'wrong')
  memo.put(('\\frac{1}{2}', 'é\u2028"'), 'correct')


def test_survives_a_restart(tmp_path):
  path = tmp_path / 'run' / 'memo.jsonl'
  _filled(path)
  memo = memo_lib.Memo(path)
  assert len(memo) == 2
  assert memo.get(('1', 'x')) == 'wrong'
  assert memo.get(('\\frac{1}{2}', 'é\u2028"')) == 'correct'
  assert memo.get(('x', '1')) is None


def test_a_torn_line_costs_only_itself(tmp_path):
  path = tmp_path / 'memo.jsonl'
  _filled(path)
  data = path.read_bytes()
  for cut in range(len(data)):
    path.write_bytes(data[:cut])
    memo = memo_lib.Memo(path)
    assert len(memo) == data[:cut].count(b'\n') + (cut == len(data) - 1) + (
      cut == data.index(b'\n')
    )
    memo.put(('a', 'b'), 'timeout')
    memo = memo_lib.Memo(path)
    assert memo.get(('a', 'b')) == 'timeout'


def test_appends_and_never_repeats(tmp_path):
  path = tmp_path / 'memo.jsonl'
  _filled(path)
  before = path.read_bytes()
  memo = memo_lib.Memo(path)
  memo.put(('1', 'x'), 'wrong')
  assert path.read_bytes() == before


def test_other_versions_are_ignored(tmp_path):
  path = tmp_path / 'memo.jsonl'
  row = {'v': memo_lib.VERSION - 1, 'a': '1', 'b': 'x', 'outcome': 'correct'}
  path.write_text(json.dumps(row) + '\n[]\n7\n')
  memo = memo_lib.Memo(path)
  assert len(memo) == 0


def test_a_file_for_what_is_in_memory(tmp_path):
  _filled(tmp_path / 'memo.jsonl')
  memo = memo_lib.Memo()
  memo.put(('1', '2'), 'wrong')
  assert not memo.has_file
  memo.keep_in(tmp_path / 'memo.jsonl')
  assert memo.has_file and len(memo) == 3
  memo.put(('1', '3'), 'timeout', on_disk=False)
  memo.put(('1', '4'), 'wrong')
  assert memo.get(('1', '3')) == 'timeout'
  memo = memo_lib.Memo(tmp_path / 'memo.jsonl')
  assert len(memo) == 3 and memo.get(('1', '4')) == 'wrong'


def test_in_memory_without_a_path():
  memo = memo_lib.Memo()
  memo.put(('1', '2'), 'wrong')
  assert memo.get(('1', '2')) == 'wrong'
