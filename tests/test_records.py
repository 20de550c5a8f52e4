import dataclasses
import gzip
import json

from hypothesis import given, strategies as st
import pytest

from restem_jax import records

PROBLEM = records.Problem(
  id='chain_sum/17', question='4 + 3 =', answer='7', meta={'level': [1, 2]}
)
SAMPLE = records.Sample(
  problem_id='chain_sum/17',
  index=3,
  iteration=1,
  seed=0,
  text='7',
  token_ids=(28, 2),
  logprobs=(-0.25, -1.5),
  finish='eos',
)
VERDICT = records.Verdict(reward=1.0, reason='correct', answer='7')
EXAMPLE = records.Example(
  id='chain_sum/17#3', prompt_ids=(4, 5), target_ids=(28, 2), weight=0.5
)
REPORT = records.EvalReport(
  task='chain_sum',
  split='test',
  num_problems=4,
  num_correct=1,
  accuracy=0.25,
  interval=(0.05, 0.7),
  reasons={'correct': 1, 'wrong': 3},
)


SAMPLED = dataclasses.replace(
  REPORT,
  num_grader_errors=2,
  sampled=records.SampledReport(
    num_samples=4,
    temperature=1.0,
    top_k=0,
    top_p=0.95,
    pass_at={'1': 0.25, '4': 0.5},
    maj_at=None,
    reasons={'correct': 4, 'grader_error': 12},
    num_timeouts=0,
    num_grader_errors=12,
  ),
)


@pytest.mark.parametrize(
  'record',
  [PROBLEM, SAMPLE, VERDICT, EXAMPLE, REPORT, SAMPLED],
  ids=lambda r: type(r),
)
def test_round_trip(record):
  line = records.to_json(record)
  assert '\n' not in line
  assert records.from_dict(type(record), json.loads(line)) == record


def test_json_is_compact_in_field_order():
  assert records.to_json(VERDICT) == (
    '{"reward":1.0,"reason":"correct","answer":"7","failure":""}'
  )
  scored = records.Scored(sample=SAMPLE, verdict=VERDICT)
  assert list(json.loads(records.to_json(scored))) == ['sample', 'verdict']


def test_unknown_and_missing_fields_are_refused():
  row = dataclasses.asdict(VERDICT)
  with pytest.raises(TypeError, match='rewad'):
    records.from_dict(records.Verdict, {**row, 'rewad': 1})
  del row['reason']
  with pytest.raises(TypeError, match='reason'):
    records.from_dict(records.Verdict, row)


def test_records_are_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    VERDICT.reward = 0.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize('suffix', ['', '.gz'])
def test_read_jsonl(tmp_path, suffix):
  path = tmp_path / f'x.jsonl{suffix}'
  data = '{"a": "one\u2028line"}\n\n  \n[1, 2]'.encode()
  path.write_bytes(gzip.compress(data) if suffix else data)
  # Blank lines count as lines; U+2028 ends none.
  assert list(records.read_jsonl(path)) == [
    (1, {'a': 'one\u2028line'}),
    (4, [1, 2]),
  ]


@pytest.mark.parametrize(
  'line', [b'{"a": 1', b'nothing', b'\xff\xfe', b'[' * 100_000]
)
def test_a_malformed_line_is_named(tmp_path, line):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
  rows = records.read_jsonl(path)
  assert next(rows) == (1, {'a': 1})
  with pytest.raises(ValueError, match=r'x\.jsonl, line 2: not JSON'):
    next(rows)


@given(st.text(), st.text())
def test_any_text_survives(question, answer):
  problem = records.Problem(id='x', question=question, answer=answer)
  row = json.loads(records.to_json(problem))
  assert records.from_dict(records.Problem, row) == problem


def test_a_graders_failure_is_counted_apart():
  failed = records.Verdict(reward=0.0, reason='error', failure='infra: gone')
  raised = records.Verdict(reward=0.0, reason='error')
  assert failed.counted_as == records.GRADER_ERROR
  assert (raised.counted_as, VERDICT.counted_as) == ('error', 'correct')
  # Verdicts of older runs have no such field.
  row = {'reward': 0.0, 'reason': 'error', 'answer': ''}
  assert records.from_dict(records.Verdict, row) == raised
