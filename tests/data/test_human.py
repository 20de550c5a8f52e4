"""Human solutions as training examples."""

import json

import pytest
import tiny

from restem_jax.data import human, jsonl
from restem_jax.data.prompts import PromptTemplate
from restem_jax.records import Problem
from restem_jax.tokenizer import Tokenizer


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer(
    tiny.tiny_tokenizer(),
    bos_id=1,
    eos_ids=(2,),
    chat_template=tiny.CHAT_TEMPLATE,
  )


def test_human_examples(tmp_path, tokenizer):
  path = tmp_path / 'a.jsonl'
  lines = [
    json.dumps({'id': f'{i}', 'question': f'{i} + 1 =', 'answer': i + 1})
    for i in range(9)
  ]
  path.write_text('\n'.join(lines))
  found = jsonl.JsonlSource(
    path, num_shots=1, test_fraction=0, validation_fraction=0
  )
  plain = PromptTemplate(num_shots=1)
  chat = PromptTemplate(num_shots=1, chat=True)
  for template, end in ((plain, tokenizer.encode('\n')), (chat, [2])):
    text_fn = human.template_text(template, found, tokenizer)
    examples = list(
      human.human_examples(found.load('train'), text_fn, tokenizer, weight=0.5)
    )
    assert len(examples) == 8
    for asked, example in zip(found.load('train'), examples, strict=True):
      assert example.id == f'{asked.id}#human' and example.weight == 0.5
      prompt = tokenizer.decode(example.prompt_ids, skip_special=False)
      assert prompt == template.render(asked, found.shots('a'), tokenizer)
      assert list(example.target_ids[-1:]) == end
      assert tokenizer.decode(example.target_ids).strip() == asked.answer


def test_human_chat_needs_an_eos():
  without = Tokenizer(tiny.tiny_tokenizer(), chat_template=tiny.CHAT_TEMPLATE)
  text_fn = lambda p: ('prompt', 'target', True)
  with pytest.raises(ValueError, match='no EOS'):
    list(
      human.human_examples(
        [Problem(id='p', question='q', answer='a')], text_fn, without
      )
    )
