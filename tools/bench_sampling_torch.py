#!/usr/bin/env python3
"""W1 of bench_sampling.py by `transformers` generate: one JSON line.

The same shape and sizes, random weights; in the dtype whose matrix product is
faster here. Needs the extra [parity].
"""

import json
import time

import torch
import torch_dtype
import transformers

config = transformers.LlamaConfig(
  vocab_size=49152,
  hidden_size=576,
  intermediate_size=1536,
  num_hidden_layers=30,
  num_attention_heads=9,
  num_key_value_heads=3,
  tie_word_embeddings=True,
)
torch.manual_seed(0)
model = transformers.LlamaForCausalLM(config).eval()
generator = torch.Generator().manual_seed(1)
shared = torch.randint(1, 49152, (1, 600), generator=generator)
own = torch.randint(1, 49152, (8, 83), generator=generator)
prompts = torch.cat([shared.expand(8, -1), own], 1)


dtype = torch_dtype.faster_dtype()
with torch.inference_mode():
  model.to(dtype)(prompts)  # touches memory
  start = time.perf_counter()
  out = model.generate(
    prompts,
    attention_mask=torch.ones_like(prompts),
    do_sample=True,
    temperature=0.7,
    top_k=40,
    num_return_sequences=8,
    min_new_tokens=64,
    max_new_tokens=64,
    pad_token_id=0,
  )
taken = time.perf_counter() - start
assert out.shape == (64, 683 + 64)
print(
  json.dumps(
    {
      'peer': f'transformers {transformers.__version__}',
      'torch': torch.__version__,
      'dtype': str(dtype),
      'seconds': round(taken, 2),
      'tokens_per_s': round(4096 / taken, 1),
    }
  )
)
