#!/usr/bin/env python3
"""What the benchmarks of sampling ask, by `transformers` generate: one JSON line.

In: on stdin, JSON: `config` of a LlamaConfig, `prompts` of one length, `samples`
of each, `new` tokens. Random weights; bf16 on a GPU, on a CPU the dtype whose
matrix product is faster there. Needs the extra [parity].
"""

import json
import sys
import time

import torch
import torch_dtype
import transformers

asked = json.load(sys.stdin)
gpu = torch.cuda.is_available()
dtype = torch.bfloat16 if gpu else torch_dtype.faster_dtype()
config = transformers.LlamaConfig(**asked['config'])
torch.manual_seed(0)
with torch.device('cuda' if gpu else 'cpu'):
  model = transformers.LlamaForCausalLM(config).eval().to(dtype)
  prompts = torch.tensor(asked['prompts'])


def generate(new: int) -> float:
  """Seconds of so many new tokens of all samples."""
  start = time.perf_counter()
  out = model.generate(
    prompts,
    attention_mask=torch.ones_like(prompts),
    do_sample=True,
    temperature=0.7,
    top_k=40,
    num_return_sequences=asked['samples'],
    min_new_tokens=new,
    max_new_tokens=new,
    pad_token_id=0,
  )
  assert out.cpu().shape[1] == prompts.shape[1] + new
  return time.perf_counter() - start


with torch.inference_mode():
  generate(1)  # touches memory, loads kernels
  taken = generate(asked['new'])
tokens = len(asked['prompts']) * asked['samples'] * asked['new']
print(
  json.dumps(
    {
      'peer': f'transformers {transformers.__version__}',
      'torch': torch.__version__,
      'dtype': str(dtype),
      'seconds': round(taken, 2),
      'tokens_per_s': round(tokens / taken, 1),
    }
  )
)
