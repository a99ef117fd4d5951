# SPDX-License-Identifier: Apache-2.0
"""What a check says: findings, and what training sees of each split."""
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

REFUSED = 'refused'  # training fails, or learns or evaluates something wrong
DROPPED = 'dropped'  # the data set class leaves it out
CLIPPED = 'clipped'  # used, but not as it is written
NOTE = 'note'
SEVERITIES = (REFUSED, DROPPED, CLIPPED, NOTE)
MAX_EXAMPLES = 3


class Finding(NamedTuple):
    """One kind of thing that was found in one split."""

    kind: str
    split: str
    severity: str
    count: int
    examples: Tuple[str, ...]
    message: str

    def __str__(self) -> str:
        more = '; ...' if self.count > len(self.examples) else ''
        shown = f' [{"; ".join(self.examples)}{more}]' if self.examples else ''
        return (f'{self.severity}: {self.split}: {self.kind} ({self.count}): '
                f'{self.message}{shown}')


class Findings(List[Finding]):
    """The findings of one split; of no examples there is none."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self.split = split

    def add(self, severity: str, kind: str, examples: Sequence, message: str,
            count: Optional[int] = None) -> None:
        """Add a finding of a severity; ``count`` if not all are examples."""
        if len(examples):
            # names of files may hold what cannot be printed
            shown = tuple(str(e).encode(errors='backslashreplace').decode()
                          for e in examples[:MAX_EXAMPLES])
            count = len(examples) if count is None else count
            self.append(
                Finding(kind, self.split, severity, count, shown, message))

    def refuse(self, kind: str, examples: Sequence, message: str) -> None:
        """Add what training fails with, or learns or evaluates wrongly."""
        self.add(REFUSED, kind, examples, message)

    def drop(self, kind: str, examples: Sequence, message: str) -> None:
        """Add what the data set class leaves out."""
        self.add(DROPPED, kind, examples, message)

    def note(self, kind: str, examples: Sequence, message: str) -> None:
        """Add what may be as it should."""
        self.add(NOTE, kind, examples, message)


class Summary(NamedTuple):
    """What training sees of a split.

    ``sizes`` has one row ``(width, height)`` for each box, in pixels of the
    network's input, or of the image if ``img_scale`` is unknown.
    """

    images: int
    boxes: int
    classes: Dict[str, int]
    sizes: np.ndarray

    def __str__(self) -> str:
        counts = ', '.join(f'{k} {v}' for k, v in self.classes.items())
        return f'{self.images} images, {self.boxes} boxes: {counts}'


@dataclass
class Report:
    """The findings, the worst first, and what remains of each split."""

    findings: List[Finding] = field(default_factory=list)
    summaries: Dict[str, Summary] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.findings = sorted(
            self.findings, key=lambda f: SEVERITIES.index(f.severity))

    @property
    def refused(self) -> bool:
        """Whether training on this would fail or be in vain."""
        return any(f.severity == REFUSED for f in self.findings)

    def __str__(self) -> str:
        count = Counter(f.severity for f in self.findings)
        total = ', '.join(f'{s} {count[s]}' for s in SEVERITIES if count[s])
        verdict = f'{"not " * self.refused}ready to train on'
        return '\n'.join([
            *(f'{name}: {s}' for name, s in self.summaries.items()),
            *map(str, self.findings), f'{verdict}: {total or "no findings"}'])

    def to_dict(self) -> dict:
        """Everything but the sizes of the boxes, for json."""
        splits = {name: dict(images=s.images, boxes=s.boxes,
                             classes=dict(s.classes))
                  for name, s in self.summaries.items()}
        return dict(refused=self.refused,
                    findings=[f._asdict() for f in self.findings],
                    splits=splits)


def short(value: Any) -> str:
    """At most 80 characters of a value."""
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:76]} ...'
