"""The models of the benchmarks, by the names of their recipes."""

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
