"""The models of the benchmarks, by the names of their recipes."""

from typing import Any

from restem_jax.models.config import ModelConfig

SMOLLM2 = ModelConfig(
  vocab_size=49152,
  num_layers=30,
  embed_dim=576,
  mlp_dim=1536,
  num_heads=9,
  num_kv_heads=3,
  head_dim=64,
)
LLAMA3_1B = ModelConfig(
  vocab_size=128256,
  num_layers=16,
  embed_dim=2048,
  mlp_dim=8192,
  num_heads=32,
  num_kv_heads=8,
  head_dim=64,
  rope_theta=500000.0,
)
MODELS = {'smollm2_135m': SMOLLM2, 'llama3_1b': LLAMA3_1B}


def llama_config(shape: ModelConfig) -> dict[str, Any]:
  """What `transformers.LlamaConfig` wants, for the peers in torch."""
  return {
    'vocab_size': shape.vocab_size,
    'hidden_size': shape.embed_dim,
    'intermediate_size': shape.mlp_dim,
    'num_hidden_layers': shape.num_layers,
    'num_attention_heads': shape.num_heads,
    'num_key_value_heads': shape.num_kv_heads,
    'head_dim': shape.head_dim,
    'tie_word_embeddings': shape.tied_embeddings,
  }
