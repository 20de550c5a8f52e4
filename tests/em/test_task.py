import dataclasses
import json

import pytest

from restem_jax.data import jsonl
from restem_jax.em import task as task_lib
from restem_jax.records import Problem


@dataclasses.dataclass(frozen=True)
class Listed:
  """A source of given problems."""

  splits: dict
  name: str = 'listed'

  def load(self, split):
    return self.splits.get(split, [])

  def shots(self, task):
    return []

  def fingerprint(self):
    return ''


def problem(number, answer='1', question=''):
  return Problem(
    id=f'p{number}', question=question or f'item {number}', answer=answer
  )


def make(problem_task, **splits):
  prompt = dataclasses.replace(problem_task.prompt, num_shots=0)
  return dataclasses.replace(problem_task, source=Listed(splits), prompt=prompt)


def test_a_problem_whose_gold_does_not_verify_is_dropped(problem_task, caplog):
  task = make(problem_task, train=[problem(0), problem(1, answer='1/0')])
  assert [p.id for p in task.problems('train')] == ['p0']
  (record,) = caplog.records
  assert record.getMessage().startswith('p1: dropped, its gold answer does not')


def test_no_question_may_be_in_two_splits(problem_task):
  task = make(
    problem_task,
    train=[problem(0, question='4 + 3  =')],
    test=[problem(1, question=' 4 + 3 =')],
  )
  with pytest.raises(ValueError, match='p1 of test asks the same as p0 of tra'):
    task.problems('train')
  twice = [problem(0, question='x'), problem(1, question='x')]
  assert len(make(problem_task, train=twice).problems('train')) == 2


def test_prompts(problem_task, sampler):
  tokenizer = sampler.tokenizer
  (first, *_) = problem_task.problems('train')
  ids = problem_task.prompt_ids([first], tokenizer)[first.id]
  text = tokenizer.decode(ids)
  assert text.count('Question: ') == 3  # two shots
  assert text.endswith(f'Question: {first.question}\nAnswer:')
  assert problem_task.name == 'digits'


def test_a_too_long_prompt_is_left_out_with_a_line(
  problem_task, sampler, caplog
):
  short, long = problem(0), problem(1, question='very ' * 40)
  task = make(problem_task, train=[short, long])
  task = dataclasses.replace(task, max_prompt_len=60)
  found = task.prompt_ids([short, long], sampler.tokenizer)
  assert list(found) == ['p0']
  assert 'p1: left out, its prompt has' in caplog.text


def test_a_too_long_prompt_may_be_truncated(problem_task, sampler, caplog):
  long = problem(1, question='very ' * 40 + 'odd?')
  task = make(problem_task, train=[long])
  whole = task.prompt_ids([long], sampler.tokenizer)['p1']
  task = dataclasses.replace(task, max_prompt_len=60, long_prompts='truncate')
  ids = task.prompt_ids([long], sampler.tokenizer)['p1']
  bos = sampler.tokenizer.encode('', bos=True)
  assert list(ids[: len(bos)]) == bos
  assert len(ids) == 60
  assert ids[len(bos) :] == whole[len(bos) - 60 :]
  assert 'p1: truncated, its prompt has' in caplog.text
  with pytest.raises(ValueError, match=r'long_prompts.*skip or truncate'):
    dataclasses.replace(task, long_prompts='cut')


def test_human_solutions_have_the_prompts_of_samples(tmp_path, problem_task):
  row = {'question': 'four?', 'answer': '4', 'solution': 'it is 4'}
  path = tmp_path / 'human.jsonl'
  path.write_text(json.dumps(row) + '\n')
  source = jsonl.JsonlSource(path, validation_fraction=0, test_fraction=0)
  template = dataclasses.replace(
    problem_task.prompt, num_shots=0, answer=' {solution}'
  )
  task = dataclasses.replace(problem_task, source=source, prompt=template)
  (four,) = task.problems('train')
  prompt, target, _ = task.human_text(None)(four)
  assert prompt == 'Question: four?\nAnswer:'
  assert target.startswith(' it is 4')


def test_pick(problem_task):
  other = make(problem_task, train=[])
  tasks = {'digits': problem_task, 'listed': other}
  assert task_lib.pick('listed', tasks) is other
  assert task_lib.pick_all(['listed', 'digits'], tasks) == [other, problem_task]
  assert task_lib.pick_all([], tasks) == []
  with pytest.raises(ValueError, match="'digit'; write one of digits, listed"):
    task_lib.pick('digit', tasks)
