"""Prompts: plain, few-shot, chat; and the targets of human solutions."""

import json

import hypothesis
from hypothesis import strategies as st
import pytest
import tiny

from restem_jax.data.prompts import PromptTemplate
from restem_jax.records import Problem
from restem_jax.tokenizer import Tokenizer


def problem(question='4 + 3 =', answer='7', solution='', task='sum'):
  return Problem(
    id='p', question=question, answer=answer, solution=solution, task=task
  )


SHOTS = [problem('2 + 2 =', '4'), problem('1 + 5 =', '6')]


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer(
    tiny.tiny_tokenizer(),
    bos_id=1,
    eos_ids=(2,),
    chat_template=tiny.CHAT_TEMPLATE,
  )


def test_zero_shot():
  template = PromptTemplate()
  assert template.render(problem()) == 'Question: 4 + 3 =\nAnswer:'
  assert template.target(problem()) == ' 7\n'


def test_few_shot_with_instruction():
  template = PromptTemplate(num_shots=2, instruction='Solve.')
  assert template.render(problem(), SHOTS) == (
    'Solve.\n\n'
    'Question: 2 + 2 =\nAnswer: 4\n\n'
    'Question: 1 + 5 =\nAnswer: 6\n\n'
    'Question: 4 + 3 =\nAnswer:'
  )


def test_shots_end_as_the_target_does():
  template = PromptTemplate(num_shots=1)
  prompt = PromptTemplate().render(SHOTS[0])
  shown = prompt + PromptTemplate().target(SHOTS[0])
  assert template.render(problem(), SHOTS).startswith(shown)


def test_chat(tokenizer):
  template = PromptTemplate(
    question='{question}',
    answer='So {answer}',
    num_shots=1,
    instruction='Add.',
    system='Be brief.',
    chat=True,
  )
  assert template.render(problem(), SHOTS, tokenizer) == (
    '<|im_start|>system\nBe brief.<|im_end|>\n'
    '<|im_start|>user\nAdd.\n\n2 + 2 =<|im_end|>\n'
    '<|im_start|>assistant\nSo 4<|im_end|>\n'
    '<|im_start|>user\n4 + 3 =<|im_end|>\n'
    '<|im_start|>assistant\n'
  )
  assert template.target(problem()) == 'So 7'
  with pytest.raises(ValueError, match='needs the tokenizer'):
    template.render(problem(), SHOTS)


@hypothesis.given(st.text(), st.text(min_size=1))
def test_data_is_never_parsed(question, answer):
  hypothesis.assume(answer.strip())
  template = PromptTemplate(
    question='{{Q}} {question}|', answer='{answer}', stops=()
  )
  asked = problem(question, answer)
  assert template.render(asked) == '{Q} ' + question + '|'
  assert template.target(asked) == answer


def program(**meta):
  return Problem(
    id='p', question='Write {f}.', answer='', solution='s', meta=meta
  )


def test_tests_of_a_program():
  template = PromptTemplate(
    question='{question}\n{tests}\n[BEGIN]', answer='{solution}'
  )
  tests = ['assert f(1) == {}', 'assert f(2) == 2', 'assert f(3) == 3']
  assert template.render(program(tests=tests[:1])) == (
    'Write {f}.\nassert f(1) == {}\n[BEGIN]'
  )
  # The others stay hidden.
  shown = template.render(program(tests=tests, shown=2))
  assert shown.split('\n')[1:] == [*tests[:2], '[BEGIN]']
  for meta in ({}, {'tests': 'def check(c)'}, {'tests': [{'stdin': ''}]}):
    with pytest.raises(ValueError, match=r"problem 'p': its meta\['tests'\]"):
      template.render(program(**meta))
  # Where no tests are shown, none are needed.
  assert 'Write {f}.' in PromptTemplate().render(program())


def test_braces_and_attributes_in_data_stay():
  asked = problem('{0.__class__} {answer} {', '7')
  assert '{0.__class__} {answer} {' in PromptTemplate().render(asked)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'question': 'Q: {prompt}'}, r'unknown field \{prompt\}'),
    ({'question': '{question} {answer}'}, r'unknown field \{answer\}'),
    ({'question': '{}'}, r'unknown field \{\}'),
    (
      {'question': '{tests} {solution}'},
      r'allowed are \{question\}, \{tests\}',
    ),
    ({'answer': '{tests}'}, r'unknown field \{tests\}'),
    ({'question': '{question.id}'}, r'unknown field \{question\.id\}'),
    ({'question': '{question!r}'}, r'unknown field \{question!r\}'),
    ({'question': '{question:>9}'}, r'unknown field \{question:>9\}'),
    ({'question': '{question'}, 'literal brace'),
    ({'answer': '{id}'}, r'allowed are \{question\}, \{answer\}'),
    ({'num_shots': -1}, 'num_shots=-1'),
    ({'stops': ['']}, 'stops='),
    ({'system': 's'}, 'chat=True'),
  ],
)
def test_bad_templates(fields, message):
  with pytest.raises(ValueError, match=message):
    PromptTemplate(**fields)


def test_too_few_shots():
  with pytest.raises(ValueError, match=r"num_shots=3, but .*'sum' are 2"):
    PromptTemplate(num_shots=3).render(problem(), SHOTS)


def test_missing_solution_and_stop_inside_an_answer():
  template = PromptTemplate(answer=' {solution}')
  with pytest.raises(ValueError, match='has no solution'):
    template.target(problem())
  with pytest.raises(ValueError, match=r"holds the stop '\\n'"):
    template.target(problem(solution='one\ntwo'))
  # The solution may be missing where only the answer is shown.
  assert PromptTemplate().target(problem()) == ' 7\n'


def test_shots_of_a_file_override_and_go_by_task(tmp_path):
  path = tmp_path / 'shots.jsonl'
  rows = [{'question': 'q1', 'answer': '1'}, {'question': 'q2', 'answer': '2'}]
  path.write_text('\n'.join(map(json.dumps, rows)))
  template = PromptTemplate(num_shots=2, shots_path=str(path))
  assert 'q1\nAnswer: 1' in template.render(problem(), SHOTS)
  assert '2 + 2' not in template.render(problem(), SHOTS)
  tasks = tmp_path / 'tasks.jsonl'
  rows = [{**row, 'task': f't{i}'} for i, row in enumerate(rows)]
  tasks.write_text('\n'.join(map(json.dumps, rows)))
  template = PromptTemplate(num_shots=1, shots_path=str(tasks))
  assert 'q2' in template.render(problem(task='t1'))
