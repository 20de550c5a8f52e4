"""The tokenizer inside a GGUF file.

In: the metadata of a GGUF whose tokenizer is byte-level BPE. Out: a
`Tokenizer`, kept in the cache since the file's string arrays are slow to
read. Not here: tensors (`gguf`), SentencePiece vocabularies in GGUF.

Keys and token types:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import os
import pathlib
from typing import Any

from gguf import GGUFReader
import tokenizers
from tokenizers import (
  AddedToken,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  Regex,
)

from restem_jax import tokenizer as tokenizer_lib
from restem_jax.weights import cache

_VERSION = 1  # of the cached conversion; raise it when this module changes
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # token types

# What splits a text before BPE, by `tokenizer.ggml.pre`; the patterns are
# those of the models' own tokenizer.json.
_PATTERN = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_PATTERNS = {'qwen2': _PATTERN % '', 'llama-bpe': _PATTERN % '{1,3}'}


def read_tokenizer(path: os.PathLike[str] | str) -> tokenizer_lib.Tokenizer:
  """The tokenizer of a local GGUF file, from the cache if it is there.

  Raises:
    ValueError: for a vocabulary or pre-tokenizer that is not supported.
  """
  name = f'{cache.key(path)}-v{_VERSION}.json'
  cached = cache.root() / 'tokenizers' / name
  if cached.exists():
    facts = json.loads(cached.read_text(encoding='utf-8'))
  else:
    facts = _convert(pathlib.Path(path))
    with cache.atomic(cached) as temporary:
      text = json.dumps(facts, ensure_ascii=False)
      temporary.write_text(text, encoding='utf-8')
  backend = tokenizers.Tokenizer.from_str(facts.pop('tokenizer'))
  return tokenizer_lib.Tokenizer(backend, **facts)


def _convert(path: pathlib.Path) -> dict[str, Any]:
  """The arguments of `Tokenizer`, with the backend as its JSON text."""
  reader = GGUFReader(path)

  def get(name: str, default: Any = None) -> Any:
    field = reader.get_field(f'tokenizer.{name}')
    return default if field is None else field.contents()

  kind, pre = get('ggml.model'), get('ggml.pre')
  if kind != 'gpt2':
    raise ValueError(
      f'{path}: tokenizer.ggml.model is {kind!r}, only "gpt2" (byte-level '
      'BPE) is read from a GGUF; use the model as a Hugging Face folder with '
      'its tokenizer.json'
    )
  if pre != 'smollm' and pre not in _PATTERNS:
    raise ValueError(
      f'{path}: tokenizer.ggml.pre is {pre!r}, known are '
      f'{["smollm", *_PATTERNS]}; use the model as a Hugging Face folder with '
      'its tokenizer.json'
    )
  tokens, types = get('ggml.tokens'), get('ggml.token_type')
  backend = byte_level_bpe(
    vocab={
      token: i
      for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
      if kind != _UNUSED
    },
    merges=[tuple(m.split(' ')) for m in get('ggml.merges')],
    pre=pre,
  )
  special = [
    t for t, kind in zip(tokens, types, strict=True) if kind == _CONTROL
  ]
  backend.add_special_tokens(special)
  backend.add_tokens(
    [
      AddedToken(t, special=False, normalized=False)
      for t, kind in zip(tokens, types, strict=True)
      if kind == _USER_DEFINED
    ]
  )
  ends = (get('ggml.eos_token_id'), get('ggml.eot_token_id'))
  return {
    'tokenizer': backend.to_str(),
    'bos_id': get('ggml.bos_token_id'),
    'eos_ids': [i for i in ends if i is not None],
    'pad_id': get('ggml.padding_token_id'),
    # Llama 3 files leave the flag out and llama.cpp takes it as set.
    'add_bos': get('ggml.add_bos_token', pre == 'llama-bpe'),
    'chat_template': get('chat_template', ''),
  }


def byte_level_bpe(
  *, vocab: dict[str, int], merges: list[tuple[str, str]], pre: str
) -> tokenizers.Tokenizer:
  """A byte-level BPE whose texts are split as `pre` (see `_PATTERNS`) says."""
  # Llama 3 looks a whole word up before it merges (tiktoken's way).
  ignore_merges = pre == 'llama-bpe'
  backend = tokenizers.Tokenizer(
    models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges)
  )
  if pre == 'smollm':
    split = pre_tokenizers.Digits(individual_digits=True)
  else:
    split = pre_tokenizers.Split(Regex(_PATTERNS[pre]), behavior='isolated')
  if pre == 'qwen2':
    backend.normalizer = normalizers.NFC()
  byte_level = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=pre == 'smollm'
  )
  backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
  backend.decoder = decoders.ByteLevel()
  return backend
