"""Tokenizer: ids, bytes, special ids, chat templates; against transformers."""

import itertools
import json

from hypothesis import given, strategies as st
import pytest
from real import data_path, parity, smollm2_path
from tiny import CHAT_TEMPLATE, tiny_tokenizer, write_tokenizer
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from restem_jax.records import read_jsonl
from restem_jax.tokenizer import Tokenizer
from restem_jax.weights import gguf_vocabulary

TINY = Tokenizer(
  tiny_tokenizer(), bos_id=1, eos_ids=[2], chat_template=CHAT_TEMPLATE
)
BYTES = TINY.token_bytes()
USER = [{'role': 'user', 'content': 'hi'}]


def edit_json(path, **fields):
  value = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps(value | fields))


@given(st.text(st.characters(exclude_categories=['Cs'])))
def test_text_comes_back_and_is_the_bytes_of_its_ids(text):
  ids = TINY.encode(text)
  assert b''.join(BYTES[i] for i in ids) == text.encode()
  assert TINY.decode(ids) == text


def test_spaces_are_not_cleaned_up():
  text = "a , b . do n't  stop !\n\n x "
  assert TINY.decode(TINY.encode(text)) == text


def test_digits_are_single_tokens():
  pieces = [BYTES[i] for i in TINY.encode('12 345')]
  assert pieces == [b'1', b'2', b' ', b'3', b'4', b'5']


def test_special_tokens_are_read_in_text_and_left_out_of_text():
  ids = TINY.encode('a<|im_end|>')
  assert ids[-1] == 2 and BYTES[2] == b''
  assert TINY.decode(ids) == 'a'
  assert TINY.decode(ids, skip_special=False) == 'a<|im_end|>'


def test_ids_beyond_the_vocabulary_decode_to_nothing():
  assert TINY.decode([*TINY.encode('a'), 10**6]) == 'a'


def test_directory(tmp_path):
  write_tokenizer(tmp_path, tiny_tokenizer())
  tokenizer = Tokenizer.from_directory(tmp_path)
  assert tokenizer.vocab_size == 300 == len(tokenizer.token_bytes())
  assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))
  assert tokenizer.pad_id == 2 and not tokenizer.add_bos
  assert tokenizer.encode('a', bos=True) == tokenizer.encode('a')


def test_several_eos_ids_and_a_bos(tmp_path):
  write_tokenizer(tmp_path, tiny_tokenizer())
  edit_json(tmp_path / 'generation_config.json', eos_token_id=[0, 2])
  edit_json(tmp_path / 'tokenizer_config.json', add_bos_token=True)
  edit_json(
    tmp_path / 'tokenizer_config.json', bos_token={'content': '<|im_start|>'}
  )
  tokenizer = Tokenizer.from_directory(tmp_path)
  assert tokenizer.eos_ids == (2, 0)  # the tokenizer's own first
  ids = tokenizer.encode('a')
  assert tokenizer.encode('a', bos=True) == [1, *ids]
  # A chat template has written it already.
  assert tokenizer.encode('<|im_start|>a', bos=True) == [1, *ids]


def test_add_bos_by_the_post_processor(tmp_path):
  backend = tiny_tokenizer()
  backend.post_processor = tokenizers.processors.TemplateProcessing(
    single='<|im_start|> $A', special_tokens=[('<|im_start|>', 1)]
  )
  write_tokenizer(tmp_path, backend)
  path = tmp_path / 'tokenizer_config.json'
  fields = json.loads(path.read_text())
  del fields['add_bos_token']
  path.write_text(json.dumps(fields))
  tokenizer = Tokenizer.from_directory(tmp_path)
  assert tokenizer.add_bos
  assert 1 not in tokenizer.encode('a')  # never unasked
  assert tokenizer.encode('a', bos=True)[0] == 1


def test_truncation_left_from_training_is_dropped(tmp_path):
  backend = tiny_tokenizer()
  backend.enable_truncation(4)
  backend.enable_padding(length=8)
  write_tokenizer(tmp_path, backend)
  tokenizer = Tokenizer.from_directory(tmp_path)
  assert len(tokenizer.encode('0123456789')) == 10
  assert len(tokenizer.encode('01')) == 2


@pytest.mark.parametrize(
  'name, text, message',
  [
    (None, '', 'has no tokenizer.json'),
    ('tokenizer.json', '{"version": ', 'is no tokenizer.json'),
    ('tokenizer_config.json', '{', 'tokenizer_config.json: not JSON'),
    ('generation_config.json', '[]', 'must hold a JSON object'),
  ],
)
def test_damaged_folders_are_named(tmp_path, name, text, message):
  if name:
    write_tokenizer(tmp_path, tiny_tokenizer())
    (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=message):
    Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize('metaspace', [False, True])
def test_bytes_of_sentencepiece_style_vocabularies(metaspace):
  vocab = {'<s>': 0, '<0xE2>': 1, '<0x82>': 2, '<0xAC>': 3, '▁': 4, 'a': 5}
  vocab |= {'▁a': 6, '\n': 7}
  backend = tokenizers.Tokenizer(
    models.BPE(vocab=vocab, merges=[('▁', 'a')], byte_fallback=True)
  )
  backend.add_special_tokens(['<s>'])
  if metaspace:
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='never')
    steps = [decoders.ByteFallback(), decoders.Metaspace()]
  else:  # Gemma's and Llama 2's
    backend.normalizer = normalizers.Replace(' ', '▁')
    steps = [decoders.Replace('▁', ' '), decoders.ByteFallback()]
  backend.decoder = decoders.Sequence([*steps, decoders.Fuse()])
  tokenizer = Tokenizer(backend)
  table = tokenizer.token_bytes()
  expected = [b'', b'\xe2', b'\x82', b'\xac', b' ', b'a', b' a', b'\n']
  assert table == expected
  text = 'a a€'
  ids = tokenizer.encode(text)
  assert b''.join(table[i] for i in ids).decode() == text
  assert tokenizer.decode(ids) == text


def test_bytes_of_other_decoders_are_refused():
  backend = tiny_tokenizer()
  backend.decoder = decoders.WordPiece()
  with pytest.raises(ValueError, match='WordPiece'):
    Tokenizer(backend).token_bytes()


def test_added_tokens_stand_for_themselves():
  backend = tiny_tokenizer()
  backend.add_tokens(['<tool call>'])  # not special: a space in it is a space
  tokenizer = Tokenizer(backend)
  assert tokenizer.token_bytes()[300] == b'<tool call>'


def test_chat():
  start = '<|im_start|>user\nhi<|im_end|>\n'
  assert TINY.chat(USER, add_generation_prompt=False) == start
  assert TINY.chat(USER) == start + '<|im_start|>assistant\n'


@pytest.mark.parametrize(
  'template, message',
  [
    ('', 'no chat template'),
    ("{{ raise_exception('user must speak first') }}", 'must speak first'),
    ("{{ ''.__class__.__mro__ }}", 'unsafe'),
    ('{{ messages.append(1) }}', 'unsafe'),
    ('{% if %}', 'chat template failed'),
  ],
)
def test_failing_chat_templates(template, message):
  tokenizer = Tokenizer(tiny_tokenizer(), chat_template=template)
  with pytest.raises(ValueError, match=message):
    tokenizer.chat(USER)


TEMPLATES = [
  CHAT_TEMPLATE,
  # Blocks on lines of their own, loop controls, JSON without HTML escapes.
  '{{ bos_token }}\n{% for m in messages %}\n'
  '    {% if m.role == "system" %}{% continue %}{% endif %}\n'
  '  {{ m | tojson }}{{ eos_token }}\n{% endfor %}\nend {{ tools is none }}',
  '{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}'
  '{% endfor %}{{ strftime_now("%Y") }}',
]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('template', TEMPLATES)
def test_chat_is_what_transformers_renders(tmp_path, template):
  parity('torch')
  transformers = parity('transformers')
  write_tokenizer(tmp_path, tiny_tokenizer())
  edit_json(tmp_path / 'tokenizer_config.json', chat_template=template)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  messages = [
    {'role': 'system', 'content': 'Be <brief> & "kind".'},
    {'role': 'user', 'content': 'Ça va ?\n'},
  ]
  for prompt in (False, True):
    assert Tokenizer.from_directory(tmp_path).chat(
      messages, prompt
    ) == theirs.apply_chat_template(
      messages, tokenize=False, add_generation_prompt=prompt
    )


def test_template_file_and_named_templates(tmp_path):
  write_tokenizer(tmp_path, tiny_tokenizer())
  named = [
    {'name': 'tool_use', 'template': 'tools'},
    {'name': 'default', 'template': 'named {{ x }}'},
  ]
  edit_json(tmp_path / 'tokenizer_config.json', chat_template=named)
  assert Tokenizer.from_directory(tmp_path).chat(USER, x=1) == 'named 1'
  (tmp_path / 'chat_template.jinja').write_text('file')
  assert Tokenizer.from_directory(tmp_path).chat(USER) == 'file'


def test_fingerprint_follows_what_decides_ids():
  same = Tokenizer(
    tiny_tokenizer(), bos_id=1, eos_ids=[2], chat_template=CHAT_TEMPLATE
  )
  assert same.fingerprint() == TINY.fingerprint()
  others = [
    Tokenizer(tiny_tokenizer(), bos_id=1, eos_ids=[2]),
    Tokenizer(tiny_tokenizer(vocab_size=290), bos_id=1, eos_ids=[2]),
    Tokenizer(tiny_tokenizer(), bos_id=1, eos_ids=[0, 2]),
  ]
  prints = {t.fingerprint() for t in [same, *others]}
  assert len(prints) == 4


@pytest.mark.filterwarnings('ignore')
def test_smollm2_ids_on_real_problems():
  """1,000 real problems with solutions, and two traps.

  transformers' conversion of a GGUF forgets SmolLM2's first step, to split
  digits one by one; it shows where two spaces precede a digit. The reference
  is its converted vocabulary and merges with that step put back.
  """
  path = data_path('gsm8k/train.jsonl.gz')
  gguf_path = smollm2_path()
  parity('torch')
  transformers = parity('transformers')
  theirs = transformers.AutoTokenizer.from_pretrained(
    gguf_path.parent, gguf_file=gguf_path.name
  )
  forgot = theirs('a  1', add_special_tokens=False).input_ids
  theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      theirs.backend_tokenizer.pre_tokenizer,
    ]
  )
  ours = gguf_vocabulary.read_tokenizer(gguf_path)
  assert ours.encode('a  1') != forgot  # why the step has to be put back
  table = ours.token_bytes()
  texts = [
    row['question'] + '\n' + row['answer']
    for _, row in itertools.islice(read_jsonl(path), 1000)
  ]
  assert len(texts) == 1000
  for text in [*texts, 'a  1', '<|im_start|>user\nx =  24<|im_end|>\n']:
    ids = ours.encode(text)
    assert ids == theirs(text, add_special_tokens=False).input_ids
    if '<|' not in text:
      assert ours.decode(ids) == text
      assert b''.join(table[i] for i in ids) == text.encode()
  assert ours.chat(USER) == theirs.apply_chat_template(
    USER, tokenize=False, add_generation_prompt=True
  )
