"""Tokenizers out of a GGUF: splitting, special tokens, the cache."""

import pytest
from tiny import tiny_tokenizer, write_tiny_hf_model
from tiny_gguf import write_tiny_gguf

from restem_jax.tokenizer import Tokenizer
from restem_jax.weights import gguf_vocabulary
from restem_jax.weights.gguf_vocabulary import read_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.mktemp('cache')
  monkeypatch.setenv('RESTEM_CACHE', str(folder))
  return folder


def test_same_as_the_tokenizer_json(tmp_path, cache, monkeypatch):
  write_tiny_hf_model(tmp_path)
  path = write_tiny_gguf(tmp_path)
  theirs = Tokenizer.from_directory(tmp_path)
  converted = read_tokenizer(path)
  assert len(list(cache.glob('tokenizers/*.json'))) == 1
  # The second time, the slow conversion is not asked.
  monkeypatch.setattr(gguf_vocabulary, '_convert', None)
  for ours in (converted, read_tokenizer(path)):
    for text in ('What is  12 + 345?\n', 'né 🙂', '<|im_start|>user'):
      assert ours.encode(text) == theirs.encode(text)
    assert ours.token_bytes() == theirs.token_bytes()
    assert ours.chat_template == theirs.chat_template
    for fact in ('bos_id', 'eos_ids', 'pad_id', 'add_bos', 'vocab_size'):
      assert getattr(ours, fact) == getattr(theirs, fact)


def test_a_changed_file_is_converted_anew(tmp_path, cache):
  write_tiny_hf_model(tmp_path)
  read_tokenizer(write_tiny_gguf(tmp_path))
  path = write_tiny_gguf(tmp_path, tokenizer__ggml__eot_token_id=0)
  assert read_tokenizer(path).eos_ids == (2, 0)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'tokenizer__ggml__model': 'llama'}, "ggml.model is 'llama'"),
    ({'tokenizer__ggml__pre': 'falcon'}, "ggml.pre is 'falcon'"),
  ],
)
def test_unsupported_vocabularies_are_named(tmp_path, fields, message):
  write_tiny_hf_model(tmp_path)
  path = write_tiny_gguf(tmp_path, **fields)
  with pytest.raises(ValueError, match=message):
    read_tokenizer(path)


@pytest.mark.parametrize(
  'pre, pieces',
  [
    # Digits come first, so that the spaces before one stay together.
    ('smollm', ['it', "'s", 'Ġ', *'1234', 'ĠĠ', '5', '.', 'Ċ']),
    ('qwen2', ['it', "'s", 'Ġ', *'1234', 'Ġ', 'Ġ', '5', '.Ċ']),
    ('llama-bpe', ['it', "'s", 'Ġ', '123', '4', 'Ġ', 'Ġ', '5', '.Ċ']),
  ],
)
def test_texts_are_split_as_the_models_do(pre, pieces):
  backend = gguf_vocabulary.byte_level_bpe(vocab={}, merges=[], pre=pre)
  split = backend.pre_tokenizer.pre_tokenize_str("it's 1234  5.\n")
  assert [piece for piece, _ in split] == pieces


def test_types_of_tokens(tmp_path):
  write_tiny_hf_model(tmp_path)
  vocab = tiny_tokenizer().get_vocab()
  tokens = [*sorted(vocab, key=lambda t: vocab[t]), '<tool>', '[PAD301]']
  types = [3] * 3 + [1] * 297 + [4, 5]
  path = write_tiny_gguf(
    tmp_path,
    tokenizer__ggml__tokens=tokens,
    tokenizer__ggml__token_type=types,
  )
  tokenizer = read_tokenizer(path)
  assert tokenizer.encode('<tool>') == [300]  # user-defined: whole, not special
  assert tokenizer.decode([300]) == '<tool>'
  assert tokenizer.vocab_size == 301  # padding of the table is no token
