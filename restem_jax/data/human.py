"""Training examples of human solutions, for any source of problems.

In: a source, a prompt template and the tokenizer. Out: `Example`s that end as
a sample of the same template would. Needs no TensorFlow; `data.seqio_mixture`
registers them as a SeqIO Task.
"""

from collections.abc import Callable, Iterable, Iterator

from restem_jax.data.prompts import PromptTemplate
from restem_jax.data.source import Source
from restem_jax.records import Example, Problem
from restem_jax.tokenizer import Tokenizer

# problem -> (the prompt's text, the target's text, does EOS end the target?)
TextFn = Callable[[Problem], tuple[str, str, bool]]


def template_text(
  template: PromptTemplate, source: Source, tokenizer: Tokenizer
) -> TextFn:
  """Prompts of the template with the source's shots, and its targets."""

  def text_fn(problem: Problem) -> tuple[str, str, bool]:
    shots = source.shots(problem.task) if template.num_shots else []
    prompt = template.render(problem, shots, tokenizer)
    ends = template.chat or not template.stops
    return prompt, template.target(problem), ends

  return text_fn


def human_examples(
  problems: Iterable[Problem],
  text_fn: TextFn,
  tokenizer: Tokenizer,
  *,
  weight: float = 1.0,
) -> Iterator[Example]:
  """One example per problem, in order; ids are `<problem id>#human`.

  Raises:
    ValueError: if EOS is to end a target and the tokenizer has none, or if a
      problem lacks what the template shows.
  """
  for problem in problems:
    prompt, target, ends_with_eos = text_fn(problem)
    target_ids = tokenizer.encode(target)
    if ends_with_eos:
      if not tokenizer.eos_ids:
        raise ValueError(
          'the tokenizer has no EOS token, which a chat or a template without'
          ' stops needs; give the template stops, e.g. ["\\n"]'
        )
      target_ids.append(tokenizer.eos_ids[0])
    yield Example(
      id=f'{problem.id}#human',
      prompt_ids=tuple(tokenizer.encode(prompt, bos=True)),
      target_ids=tuple(target_ids),
      weight=weight,
    )
