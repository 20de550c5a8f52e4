"""Text to token ids and back, over the `tokenizers` library alone.

In: a folder with `tokenizer.json` (`Tokenizer.from_directory`), or any
`tokenizers.Tokenizer` with its facts. Out: ids, text, the exact bytes of
every id, and prompts by the model's chat template. Not here: the vocabulary
inside a GGUF file (`weights.gguf_vocabulary`), torch and transformers.
"""

from collections.abc import Iterable, Mapping, Sequence
import datetime
import hashlib
import json
import re
from typing import Any

from etils import epath
import jinja2
from jinja2 import ext, nodes, parser, sandbox
import tokenizers

_BYTE_PIECE = re.compile(r'<0x([0-9A-Fa-f]{2})>')


class Tokenizer:
  """One vocabulary of V tokens, its special ids and its chat template.

  Attributes:
    backend: the `tokenizers.Tokenizer`, without truncation and padding.
    vocab_size: V, one more than the largest id. A model's table may have
      more rows (padding); those ids decode to nothing.
    bos_id: None when the vocabulary has none.
    eos_ids: every id that ends a text; the tokenizer's own first.
    pad_id: falls back on `eos_ids[0]`, then on 0.
    add_bos: whether the model expects `bos_id` in front of a text.
    chat_template: Jinja source, '' when the model has none.
  """

  def __init__(
    self,
    backend: tokenizers.Tokenizer,
    *,
    bos_id: int | None = None,
    eos_ids: Sequence[int] = (),
    pad_id: int | None = None,
    add_bos: bool = False,
    chat_template: str = '',
  ):
    backend.no_truncation()  # tokenizer.json may carry both, from training
    backend.no_padding()
    self.backend = backend
    ids = backend.get_vocab(with_added_tokens=True).values()
    self.vocab_size: int = max(ids, default=-1) + 1
    self.bos_id = bos_id
    self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(eos_ids))
    first_eos = self.eos_ids[0] if self.eos_ids else 0
    self.pad_id: int = first_eos if pad_id is None else pad_id
    self.add_bos = add_bos and bos_id is not None
    self.chat_template = chat_template

  @classmethod
  def from_directory(cls, directory: epath.PathLike) -> 'Tokenizer':
    """Reads tokenizer.json and, where present, the files beside it.

    Those are tokenizer_config.json, special_tokens_map.json,
    generation_config.json, config.json and chat_template.jinja, as on the
    Hugging Face hub.

    Raises:
      ValueError: without a tokenizer.json, or with one that can't be read.
    """
    directory = epath.Path(directory)
    path = directory / 'tokenizer.json'
    if not path.exists():
      raise ValueError(
        f'{directory} has no tokenizer.json; save the fast tokenizer there: '
        'AutoTokenizer.from_pretrained(…).save_pretrained(folder)'
      )
    try:
      backend = tokenizers.Tokenizer.from_str(path.read_text())
    except Exception as e:  # the library raises bare Exceptions
      raise ValueError(f'{path} is no tokenizer.json: {e}') from None
    special = _read_json(directory / 'special_tokens_map.json')
    special |= _read_json(directory / 'tokenizer_config.json')
    generation = _read_json(directory / 'config.json')
    generation |= _read_json(directory / 'generation_config.json')

    def ids(kind: str) -> list[int]:
      token = special.get(f'{kind}_token')
      if isinstance(token, Mapping):  # an AddedToken, written out
        token = token.get('content')
      own = backend.token_to_id(token) if isinstance(token, str) else None
      others = generation.get(f'{kind}_token_id')
      others = others if isinstance(others, list) else [others]
      return [i for i in (own, *others) if i is not None]

    bos = (ids('bos') or [None])[0]
    add_bos = special.get('add_bos_token')
    if add_bos is None:  # then the post-processor has the say
      start = backend.encode('', add_special_tokens=True).ids[:1]
      add_bos = bos is not None and start == [bos]
    return cls(
      backend,
      bos_id=bos,
      eos_ids=ids('eos'),
      pad_id=(ids('pad') or [None])[0],
      add_bos=bool(add_bos),
      chat_template=_chat_template(directory, special),
    )

  def encode(self, text: str, *, bos: bool = False) -> list[int]:
    """Token ids of a text; special tokens written in it are recognised.

    Args:
      text: any text.
      bos: put `bos_id` in front, if the model expects it (`add_bos`) and the
        text does not start with it already, as chat templates do.
    """
    ids = self.backend.encode(text, add_special_tokens=False).ids
    if bos and self.add_bos and ids[:1] != [self.bos_id]:
      assert self.bos_id is not None
      return [self.bos_id, *ids]
    return ids

  def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
    """The text of token ids, spaces untouched; unknown ids give nothing.

    Bytes that are not UTF-8 become U+FFFD.
    """
    return self.backend.decode(list(ids), skip_special_tokens=skip_special)

  def token_bytes(self) -> list[bytes]:
    """The exact bytes of every id, [V]; b'' for special ids and gaps.

    `b''.join` over the bytes of sampled ids is their text, up to the one
    leading space that SentencePiece-style decoders strip.

    Raises:
      ValueError: when the decoder is neither ByteLevel nor SentencePiece's.
    """
    step_list = _decoder_steps(self.backend)
    steps = {step['type']: step for step in step_list}
    if 'ByteLevel' in steps:
      to_bytes = _byte_level_bytes
    elif 'Metaspace' in steps or 'ByteFallback' in steps:
      space = steps.get('Metaspace', {}).get('replacement', '\u2581')
      fallback = 'ByteFallback' in steps

      def to_bytes(piece: str) -> bytes:
        match = _BYTE_PIECE.fullmatch(piece) if fallback else None
        if match:
          return bytes([int(match[1], 16)])
        return piece.replace(space, ' ').encode()
    else:
      raise ValueError(
        f'the bytes of tokens are unknown for decoder {sorted(steps)}; use a '
        'tokenizer.json with a ByteLevel, Metaspace or ByteFallback decoder'
      )
    table = [b''] * self.vocab_size
    added = self.backend.get_added_tokens_decoder()
    for piece, i in self.backend.get_vocab(with_added_tokens=True).items():
      if i not in added:
        table[i] = to_bytes(piece)
      elif not added[i].special:  # added tokens stand for themselves
        table[i] = added[i].content.encode()
    return table

  def chat(
    self,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = True,
    **variables: Any,
  ) -> str:
    """Renders messages by the chat template, as transformers does.

    Args:
      messages: mappings with 'role' and 'content'.
      add_generation_prompt: end where the assistant begins to speak.
      **variables: further variables of the template, such as
        `enable_thinking=False`. Templates that print the date want it pinned
        (`date_string='26 Jul 2024'`), or prompts change from day to day.

    Raises:
      ValueError: when there is no template or it rejects the messages.
    """
    if not self.chat_template:
      raise ValueError(
        'this model has no chat template; use plain prompts, or put a '
        'chat_template.jinja beside its tokenizer.json'
      )
    tokens = {
      'bos_token': self._token(self.bos_id),
      'eos_token': self._token(self.eos_ids[0] if self.eos_ids else None),
      'pad_token': self._token(self.pad_id),
    }
    try:
      template = _environment().from_string(self.chat_template)
      return template.render(
        **tokens
        | {'tools': None, 'documents': None}
        | variables
        | {
          'messages': list(messages),
          'add_generation_prompt': add_generation_prompt,
        }
      )
    except (jinja2.TemplateError, TypeError, KeyError) as e:
      raise ValueError(f'the chat template failed: {e}') from e

  def fingerprint(self) -> str:
    """SHA-256 (hex) of everything that decides ids and prompts."""
    facts = [self.bos_id, self.eos_ids, self.pad_id, self.add_bos]
    text = json.dumps([self.backend.to_str(), facts, self.chat_template])
    return hashlib.sha256(text.encode()).hexdigest()

  def _token(self, i: int | None) -> str:
    return '' if i is None else self.backend.id_to_token(i) or ''


def _decoder_steps(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
  """The decoders of the backend, as tokenizer.json writes them."""
  if backend.decoder is None:
    return []
  decoder = json.loads(backend.decoder.__getstate__())
  return decoder['decoders'] if decoder['type'] == 'Sequence' else [decoder]


def _byte_level_alphabet() -> dict[str, int]:
  """GPT-2's printable stand-in for each byte (openai/gpt-2, encoder.py)."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in printable]
  table = {chr(b): b for b in printable}
  return table | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_LEVEL = _byte_level_alphabet()


def _byte_level_bytes(piece: str) -> bytes:
  if all(c in _BYTE_LEVEL for c in piece):
    return bytes(_BYTE_LEVEL[c] for c in piece)
  return piece.encode()  # what the library's own decoder does


def _read_json(path: epath.Path) -> dict[str, Any]:
  """The JSON object in a file; empty when the file is absent."""
  if not path.exists():
    return {}
  try:
    value = json.loads(path.read_text())
  except ValueError as e:
    raise ValueError(f'{path}: not JSON ({e})') from None
  if not isinstance(value, dict):
    raise ValueError(f'{path}: must hold a JSON object')
  return value


def _chat_template(directory: epath.Path, special: dict[str, Any]) -> str:
  path = directory / 'chat_template.jinja'
  if path.exists():
    return path.read_text()
  template = special.get('chat_template') or ''
  if isinstance(template, list):  # named templates
    named = {t['name']: t['template'] for t in template}
    template = named.get('default', '')
  return template


class _Generation(ext.Extension):
  """`{% generation %}` marks training targets; its body is printed as is."""

  tags = frozenset({'generation'})  # type: ignore

  def parse(self, parser: parser.Parser) -> list[nodes.Node]:
    next(parser.stream)
    return parser.parse_statements(('name:endgeneration',), drop_needle=True)


def _environment() -> sandbox.ImmutableSandboxedEnvironment:
  """The environment that templates are written for: transformers' own."""
  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, ext.loopcontrols],
  )
  environment.filters['tojson'] = _to_json
  environment.globals['raise_exception'] = _raise_exception
  environment.globals['strftime_now'] = _strftime_now
  return environment


def _to_json(value: Any, indent: int | None = None) -> str:
  """Without the HTML escapes of Jinja's own filter."""
  return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
  raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
  return datetime.datetime.now().strftime(pattern)
