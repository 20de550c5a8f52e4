import pytest

from restem_jax.rewards import programs


@pytest.mark.parametrize(
  ('text', 'program'),
  [
    ('Sure:\n```python\nx = 1\n```\nDone.', 'x = 1\n'),
    ('```\nx = 1\n```', 'x = 1\n'),
    ('```py\nx = 1', 'x = 1'),  # the stop string took the fence
    ('```python\nx = 10\n```\n```python\nx = 2\n```', 'x = 10\n'),
    ('```python\nx = 1\n```\n```python\nx = 2\n```', 'x = 2\n'),
    ('```bash\npip install numpy\n```\n```python\nx = 1\n```', 'x = 1\n'),
    ('```\n1 2 3 4 5 6 7\n```\n```python\nx = 1\n```', 'x = 1\n'),
    ('```python\ns = "```"\n```', 's = "```"\n'),
    ('```python\n```', None),
    ('x = 1', None),
    ('', None),
  ],
)
def test_fenced(text, program):
  assert programs.fenced(text) == program


@pytest.mark.parametrize(
  ('text', 'program'),
  [
    ('[BEGIN]\nx = 1\n[DONE]', '\nx = 1\n'),
    ('x = 1\n[DONE]\nYou are an expert', 'x = 1\n'),
    ('x = 1', 'x = 1'),
    ('[BEGIN]\n[DONE]', None),
  ],
)
def test_begin_done(text, program):
  assert programs.begin_done(text) == program


def test_raw():
  assert programs.raw('  return 1') == '  return 1'
  assert programs.raw(' \n') is None


def test_linear_in_the_text():
  text = '```' * 100_000 + '\n' + '```python\n' * 100_000
  programs.fenced(text)
