"""What is judged, under which limits, and what came of it.

In: plain values of a problem's `meta`; out: frozen records that the engines
(`host.SandboxPool`, `remote.SandboxFusion`) share. What is *not* here: how a
program is run.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
from typing import Any, Protocol

from restem_jax.rewards.sandbox import compare

KINDS = ('stdio', 'call', 'assert', 'humaneval')
STATUSES = (
  'pass',
  'fail',  # ran, wrong value or output
  'error',  # did not compile, raised, crashed, ended early, unreadable answer
  'timeout',  # wall or CPU
  'oom',
  'violation',  # killed for a forbidden system call
  'broken',  # the tests are at fault: they don't compile, or test nothing
  'infra',  # the sandbox is at fault; says nothing about the program
)


_FIELDS: Mapping[str, Mapping[str, Any]] = {
  'stdio': {'stdin': str, 'stdout': str},
  'call': {'args': (list, tuple), 'expected': object},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """Of one program, over all its tests together."""

  wall_s: float = 3.0
  cpu_s: int = 4  # per process: of a stdio program, per test
  memory_mib: int = 512  # address space, the interpreter's 60 MiB included
  output_mib: int = 8  # standard output, per test


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
  """The tests of one problem; see `restem_jax.rewards.code` for the format."""

  kind: str
  tests: Any
  entry_point: str = ''
  setup: str = ''
  compare: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f'kind {self.kind!r}: write one of {", ".join(KINDS)}')
    form = str if self.kind == 'humaneval' else (list, tuple)
    if not isinstance(self.tests, form):
      wanted = (
        'a string that defines check(candidate)'
        if self.kind == 'humaneval'
        else 'a list'
      )
      raise ValueError(f"meta['tests'] of kind {self.kind} must be {wanted}")
    fields = _FIELDS.get(self.kind, {})
    tests: list[Any] = list(self.tests) if fields else []
    for number, test in enumerate(tests):
      if not isinstance(test, Mapping):
        raise ValueError(f"meta['tests'][{number}] must be an object")
      for field, kind in fields.items():
        if field not in test or not isinstance(test[field], kind):
          raise ValueError(
            f"meta['tests'][{number}] of kind {self.kind} needs {field!r}"
          )
    if self.kind in ('call', 'humaneval') and not self.entry_point:
      raise ValueError(
        f"meta of kind {self.kind} needs 'entry_point', the function's name"
      )
    if self.compare.get('mode', 'tokens') not in compare.MODES:
      raise ValueError(
        f"meta['compare']['mode']: write one of {', '.join(compare.MODES)}"
      )
    try:
      _ = self.payload
    except TypeError as e:
      raise ValueError(f"meta['tests'] must be plain JSON: {e}") from None

  @functools.cached_property
  def payload(self) -> bytes:
    """JSON for the tester; equal for equal suites."""
    fields = dataclasses.asdict(self)
    return json.dumps(fields, sort_keys=True).encode()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """How one program fared."""

  status: str  # one of STATUSES
  detail: str = ''
  cpu_s: float = 0.0
  wall_s: float = 0.0


class Engine(Protocol):
  """Runs programs; safe to call from several threads at once."""

  @property
  def concurrency(self) -> int:
    """How many programs run at a time."""
    ...

  def judge(self, program: str, suite: Suite, limits: Limits) -> Outcome:
    """Runs the program on the suite.

    Raises:
      ValueError: for a kind of suite that this engine can't run.
    """
    ...

  def describe(self) -> Mapping[str, Any]:
    """What isolates the programs, for the run's records."""
    ...

  def close(self) -> None:
    """Ends all processes. May be called twice."""
    ...
