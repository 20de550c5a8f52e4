"""Cases of parametrized tests that the default suite leaves out."""

import pytest


def further(*cases):
  """More of what the other cases show, at the price of more compiling.

  A case is an argument or, if a tuple, all of them.
  """
  mark = pytest.mark.slow('a further case: compiles programs of its own')
  return [
    pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=mark)
    for c in cases
  ]
