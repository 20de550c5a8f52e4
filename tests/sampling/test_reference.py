"""The oracle itself, against a model whose next token is known."""

import jax
import numpy as np
import pytest

from restem_jax.models.config import ModelConfig
from restem_jax.models.transformer import Model
from restem_jax.sampling import policies, reference

VOCAB = 6
TOKEN_BYTES = [b'a', b'b', b'c', b'd', b'e', b'']
MODEL = Model(
  ModelConfig(
    vocab_size=VOCAB,
    num_layers=1,
    embed_dim=VOCAB,
    mlp_dim=2,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    tied_embeddings=False,
  )
)


@pytest.fixture(scope='module')
def counter():
  """Parameters of a model that always goes on with the next letter."""
  params = jax.tree.map(np.zeros_like, MODEL.init(jax.random.key(0)))
  params['embed']['table'] = np.eye(VOCAB, dtype=np.float32)
  params['final_norm'] = np.ones(VOCAB, np.float32)
  params['head'] = 10 * np.roll(np.eye(VOCAB, dtype=np.float32), 1, axis=1)
  return params


@pytest.mark.parametrize(
  ('prompt', 'limit', 'strings', 'ids', 'finish'),
  [
    ([0], 3, (), (1, 2, 3), 'length'),
    ([2, 0], 9, (), (1, 2, 3, 4, 5), 'eos'),
    ([0], 9, ('cd',), (1, 2, 3), 'stop'),
    ([0], 9, ('b', 'cd'), (1,), 'stop'),
  ],
)
def test_greedy_counts_on(counter, prompt, limit, strings, ids, finish):
  rollout = reference.sample(
    MODEL,
    counter,
    problem_id='p',
    prompt_ids=prompt,
    index=0,
    policy=policies.GREEDY,
    max_new_tokens=limit,
    seed=0,
    iteration=0,
    token_bytes=TOKEN_BYTES,
    eos_ids=(5,),
    strings=strings,
  )
  assert (rollout.token_ids, rollout.finish) == (ids, finish)
  # One logit of 10 * sqrt(6) (the norm scales a one-hot), the others 0.
  want = -np.log1p((VOCAB - 1) * np.exp(-10 * np.sqrt(VOCAB)))
  np.testing.assert_allclose(rollout.logprobs, want, atol=1e-5)
