"""JSONL files in, problems and splits out."""

import gzip
import json
import os
import pathlib

import hypothesis
from hypothesis import strategies as st
import pytest

from restem_jax.data import jsonl, source

REAL = pathlib.Path(
  os.environ.get(
    'RESTEM_DATA', pathlib.Path(__file__).parents[3] / 'shared' / 'data'
  )
)


def rows(n, start=0):
  return [
    {'id': f'r{i}', 'question': f'{i} + {i} =', 'answer': str(2 * i)}
    for i in range(start, start + n)
  ]


def write(path, lines):
  text = ''.join(
    (line if isinstance(line, str) else json.dumps(line)) + '\n'
    for line in lines
  )
  if path.suffix == '.gz':
    path.write_bytes(gzip.compress(text.encode()))
  else:
    path.write_text(text, encoding='utf-8')
  return path


def test_row_fields_default_id_task_and_meta(tmp_path):
  path = write(
    tmp_path / 'sums.jsonl.gz',
    [
      {'question': '4 + 3 =', 'answer': 7, 'level': 2, 'meta': {'k': [1]}},
      '',
      {
        'id': 5,
        'question': 'q',
        'answer': ' x ',
        'solution': 's',
        'task': 'other',
      },
    ],
  )
  first, second = jsonl.load(path)
  assert (first.id, first.task, first.answer) == ('sums/1', 'sums', '7')
  assert dict(first.meta) == {'level': 2, 'k': [1]}
  # Line numbers are those of the file: the blank line 2 counts.
  assert (second.id, second.task, second.answer) == ('5', 'other', 'x')
  assert second.solution == 's'


def test_other_field_names_and_no_gold(tmp_path):
  path = write(
    tmp_path / 'code.jsonl',
    [{'task_id': 601, 'text': 'Write f.', 'code': 'c', 'test_list': ['t']}],
  )
  found = jsonl.JsonlSource(
    path,
    question_field='text',
    answer_field=None,
    solution_field='code',
    id_field='task_id',
    validation_fraction=0,
    test_fraction=0,
  ).load('train')
  assert [(p.id, p.question, p.answer, p.solution) for p in found] == [
    ('601', 'Write f.', '', 'c')
  ]
  assert found[0].meta == {'test_list': ['t']}


@hypothesis.given(
  st.lists(
    st.tuples(
      st.text(
        st.characters(exclude_categories=['Cs']) | st.just('\u2028'),
        min_size=1,
      ),
      st.integers(),
    ),
    min_size=1,
    max_size=5,
  )
)
def test_round_trip_of_any_text(tmp_path_factory, pairs):
  hypothesis.assume(all(q.strip() for q, _ in pairs))
  path = tmp_path_factory.mktemp('x') / 'a.jsonl'
  lines = [
    json.dumps({'question': q, 'answer': a}, ensure_ascii=False)
    for q, a in pairs
  ]
  path.write_bytes(('\n'.join(lines)).encode())
  found = jsonl.load(path)
  assert [(p.question, p.answer) for p in found] == [
    (q, str(a)) for q, a in pairs
  ]


@pytest.mark.parametrize(
  'line, message',
  [
    ('{"question": "q"', 'not JSON'),
    ('[1]', 'one JSON object'),
    ({'question': 'q'}, "no field 'answer'"),
    ({'question': '  ', 'answer': '1'}, "'question' is empty"),
    ({'question': 'q', 'answer': None}, "'answer' is None"),
    ({'question': 'q', 'answer': True}, "'answer' is True"),
    ('{"question": "q", "answer": NaN}', 'finite'),
    ('{"question": "\\ud800", "answer": "1"}', 'surrogate'),
    ({'question': 'q', 'answer': '1', 'meta': 3}, "'meta' is 3"),
    ({'id': 'r0', 'question': 'q', 'answer': '1'}, 'that of line 1'),
  ],
)
def test_bad_row_names_file_and_line(tmp_path, line, message):
  path = write(tmp_path / 'a.jsonl', [*rows(1), line])
  with pytest.raises(ValueError, match=r'a\.jsonl, line 2: ') as e:
    jsonl.load(path)
  assert message in str(e.value)


def test_unusable_files_are_named(tmp_path):
  with pytest.raises(ValueError, match='no such file'):
    jsonl.load(tmp_path / 'none.jsonl')
  with pytest.raises(ValueError, match=r'must end in \.jsonl'):
    jsonl.load(write(tmp_path / 'a.json', rows(1)))
  with pytest.raises(ValueError, match='no rows'):
    jsonl.load(write(tmp_path / 'empty.jsonl', []))
  path = write(tmp_path / 'cut.jsonl.gz', rows(50))
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match=r'cut\.jsonl\.gz: damaged'):
    jsonl.load(path)
  path.write_bytes(b'not gzip at all')
  with pytest.raises(ValueError, match=r'cut\.jsonl\.gz: damaged'):
    jsonl.load(path)


def test_single_file_is_split_by_id_and_stays_so(tmp_path):
  few = jsonl.JsonlSource(write(tmp_path / 'few.jsonl', rows(200)))
  # The same rows in reverse with others between them.
  many = jsonl.JsonlSource(
    write(tmp_path / 'many.jsonl', [*rows(100, 200), *rows(200)[::-1]])
  )
  place = {p.id: s for s in source.SPLITS for p in few.load(s)}
  assert len(place) == 200
  assert 10 <= len(few.load('test')) <= 35
  assert 10 <= len(few.load('validation')) <= 35
  for split in source.SPLITS:
    assert all(place.get(p.id, split) == split for p in many.load(split))
  # A limit takes a prefix.
  limited = jsonl.JsonlSource(tmp_path / 'few.jsonl', num_train=7)
  assert limited.load('train') == few.load('train')[:7]
  assert limited.load('test') == few.load('test')
  other = jsonl.JsonlSource(tmp_path / 'few.jsonl', seed=1)
  assert {p.id for p in other.load('test')} != {p.id for p in few.load('test')}


def test_folder_splits_leaks_dropped_and_logged(tmp_path, caplog):
  folder = tmp_path / 'set'
  folder.mkdir()
  leak = {'id': 'leak', 'question': '0 +  0 = ', 'answer': '0'}
  write(folder / 'train.jsonl', [leak, *rows(20, 10)])
  write(folder / 'test.jsonl.gz', rows(5))
  found = jsonl.JsonlSource(folder, validation_fraction=0.3)
  assert {p.id for p in found.load('test')} == {f'r{i}' for i in range(5)}
  kept = {p.id for p in found.load('train') + found.load('validation')}
  assert kept == {f'r{i}' for i in range(10, 30)}
  assert found.load('validation')
  assert 'dropped 1 of' in caplog.text
  assert found.name == 'set'
  with pytest.raises(ValueError, match="no split 'dev'"):
    found.load('dev')


def test_one_id_in_two_files_is_refused(tmp_path):
  write(tmp_path / 'train.jsonl', rows(2))
  write(tmp_path / 'test.jsonl', [{'id': 'r1', 'question': 'new', 'answer': 1}])
  with pytest.raises(ValueError, match="id 'r1' is there twice"):
    jsonl.JsonlSource(tmp_path).load('test')


def test_rows_without_id_in_two_files(tmp_path):
  for split, question in (('train', 'a'), ('test', 'b')):
    write(tmp_path / f'{split}.jsonl', [{'question': question, 'answer': 1}])
  found = jsonl.JsonlSource(tmp_path, name='n', validation_fraction=0)
  assert found.load('train')[0].id == 'n/train/1'
  assert found.load('test')[0].id == 'n/test/1'


def test_folder_without_or_with_two_files_of_a_split(tmp_path):
  with pytest.raises(ValueError, match=r'no train\.jsonl'):
    jsonl.JsonlSource(tmp_path).load('train')
  write(tmp_path / 'test.jsonl', rows(1))
  write(tmp_path / 'test.jsonl.gz', rows(1))
  with pytest.raises(ValueError, match='remove one'):
    jsonl.JsonlSource(tmp_path).load('train')


def test_test_path(tmp_path):
  train = write(tmp_path / 'a.jsonl', rows(30))
  test = write(tmp_path / 'b.jsonl', rows(4, 100))
  found = jsonl.JsonlSource(train, test_path=test)
  assert len(found.load('test')) == 4
  assert len(found.load('train') + found.load('validation')) == 30
  write(tmp_path / 'test.jsonl', rows(1))
  with pytest.raises(ValueError, match='leave out one'):
    jsonl.JsonlSource(tmp_path, test_path=test).load('test')


def test_shots_are_held_out_per_task(tmp_path):
  lines = [{**r, 'task': f't{i % 2}'} for i, r in enumerate(rows(60))]
  path = write(tmp_path / 'a.jsonl', lines)
  plain = jsonl.JsonlSource(path)
  found = jsonl.JsonlSource(path, num_shots=3)
  ids = {p.id for split in source.SPLITS for p in found.load(split)}
  for task in ('t0', 't1'):
    shots = found.shots(task)
    firsts = [p for p in plain.load('train') if p.task == task][:3]
    assert shots == firsts
    assert not ids & {p.id for p in shots}
  assert plain.shots('t0') == []
  assert plain.shots('no such task') == []
  with pytest.raises(ValueError, match=r"\['t0', 't1'\]"):
    found.shots('t2')


def test_fingerprint_follows_the_content(tmp_path):
  path = write(tmp_path / 'a.jsonl', rows(9))
  first = jsonl.JsonlSource(path).fingerprint()
  assert first == jsonl.JsonlSource(path).fingerprint()
  assert len(first) == 64
  assert first != jsonl.JsonlSource(path, num_train=2).fingerprint()
  assert first != jsonl.JsonlSource(path, num_shots=1).fingerprint()
  write(path, [*rows(8), {'id': 'r8', 'question': '8 + 8 =', 'answer': '17'}])
  assert first != jsonl.JsonlSource(path).fingerprint()


def test_source_is_a_source(tmp_path):
  assert isinstance(jsonl.JsonlSource(tmp_path), source.Source)


@pytest.mark.parametrize(
  'knobs, message',
  [
    ({'num_test': -1}, 'num_test=-1'),
    ({'num_shots': -1}, 'num_shots=-1'),
    ({'test_fraction': 1.5}, 'within 0 to 1'),
    ({'test_fraction': 0.6, 'validation_fraction': 0.6}, 'their sum'),
    ({'layout': 'gsm'}, "no layout 'gsm'"),
  ],
)
def test_bad_knobs(tmp_path, knobs, message):
  path = write(tmp_path / 'a.jsonl', rows(3))
  with pytest.raises(ValueError, match=message):
    jsonl.JsonlSource(path, **knobs).load('train')


@pytest.mark.parametrize(
  'name, layout, num, num_empty',
  [('gsm8k', 'gsm8k', 7473, 0), ('math', 'hendrycks_math', 7500, 2)],
)
def test_real_data(name, layout, num, num_empty):
  if not (REAL / name).is_dir():
    pytest.skip(f'no {REAL / name}; set RESTEM_DATA')
  found = jsonl.JsonlSource(REAL / name, layout=layout, test_fraction=0)
  validation = found.load('validation')
  problems = found.load('train') + validation
  # A few questions are in MATH more than once, and leave train.
  assert num - 10 <= len(problems) <= num
  assert abs(len(validation) - num / 10) < num / 50
  assert sum(not p.answer for p in problems) == num_empty
  assert not any('<<' in p.solution for p in problems if name == 'gsm8k')
  assert not any('####' in p.answer for p in problems)
