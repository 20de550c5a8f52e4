#!/usr/bin/env python3
"""The step of bench_training.py by `transformers` and torch: one JSON line.

In: on stdin, JSON: `config` of a LlamaConfig, `examples`, a list of (prompt ids,
target ids). One step of AdamW on them, as its `Trainer` makes one: batches of 4
examples (half of its default: less padding), each padded to its longest, gradients added up, the loss the
mean over all target tokens, clipping. In the dtype whose matrix product is
faster here; in bfloat16 all of it is, moments too. Needs the extra [parity].
"""

import json
import sys
import time

import torch
import torch_dtype
import transformers

BATCH = 4
asked = json.load(sys.stdin)
config = transformers.LlamaConfig(**asked['config'])
torch.manual_seed(0)
model = transformers.LlamaForCausalLM(config)
model.train()
examples = asked['examples']
num_targets = sum(len(target) for _, target in examples)


def batch_of(examples) -> dict[str, torch.Tensor]:
  """Padded to the longest; no loss on prompts and padding."""
  longest = max(len(prompt) + len(target) for prompt, target in examples)
  shape = (len(examples), longest)
  ids = torch.zeros(shape, dtype=torch.long)
  mask, labels = torch.zeros_like(ids), torch.full(shape, -100)
  for i, (prompt, target) in enumerate(examples):
    end = len(prompt) + len(target)
    ids[i, :end] = torch.tensor(prompt + target)
    mask[i, :end] = 1
    labels[i, len(prompt) : end] = torch.tensor(target)
  return {'input_ids': ids, 'attention_mask': mask, 'labels': labels}


def backward(batch: dict[str, torch.Tensor]) -> float:
  """Adds to the gradients; returns the loss."""
  loss = model(**batch, num_items_in_batch=num_targets).loss
  loss.backward()
  return float(loss.detach())


dtype = torch_dtype.faster_dtype()
model.to(dtype)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.0)
batches = [
  batch_of(examples[i : i + BATCH]) for i in range(0, len(examples), BATCH)
]
backward(batches[0])  # touches the memory that a step needs
model.zero_grad()
start = time.perf_counter()
loss = sum(map(backward, batches))
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
optimizer.zero_grad()
taken = time.perf_counter() - start
print(
  json.dumps(
    {
      'peer': f'transformers {transformers.__version__}',
      'torch': torch.__version__,
      'dtype': str(dtype),
      'seconds': round(taken, 2),
      'loss': round(loss, 3),
      'padded_tokens': sum(batch['input_ids'].numel() for batch in batches),
    }
  )
)
