"""What annotations of one sample amount to, and how well labellers agree.

States of a sample:

==============  ====================================================================
(empty)         nobody has said anything
``labelled``    the field has said it; else one class has more votes than any other
``conflict``    two classes have as many votes each
``skipped``     all who have looked cannot tell
==============  ====================================================================

The field wins because it has seen what happened; people see a picture of it.

- Cohen's kappa (J. Cohen, A coefficient of agreement for nominal scales, 1960): (p - e) / (1 - e),
  p the share of samples on which two labellers agree, e the share that chance would give, by how
  often each of them says each class.
- Fleiss' kappa (J. L. Fleiss, Measuring nominal scale agreement among many raters, 1971): the same
  for many labellers; p is the mean over samples of the share of pairs that agree, e the sum of the
  squared shares of the classes. Samples may have different numbers of labellers, two at least.

Pure. "Cannot tell" is no vote.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

__all__ = ["Consensus", "PairAgreement", "Vote", "cohen", "consensus_of", "fleiss", "pairs"]

Source = Literal["person", "import", "field"]
LabelState = Literal["", "labelled", "conflict", "skipped"]
_TWO = 2


class Vote(NamedTuple):
    """What one labeller says of one sample; label None: cannot tell."""

    source: str
    labeller: str
    label: str | None
    number: int


class Consensus(NamedTuple):
    """What a sample is."""

    state: LabelState
    label: str | None = None
    number: int = -1


class PairAgreement(NamedTuple):
    """How two labellers agree.

    Attributes:
        samples: that both have labelled.
        agreed: of these, labelled alike.
        kappa: Cohen's; None where chance alone would give full agreement.
    """

    one: str
    other: str
    samples: int
    agreed: int
    kappa: float | None


def consensus_of(votes: Sequence[Vote]) -> Consensus:
    """Return what `votes` of one sample amount to."""
    told = [vote for vote in votes if vote.label is not None]
    from_field = [vote for vote in told if vote.source == "field"]
    counted = Counter((vote.label, vote.number) for vote in from_field or told).most_common(_TWO)
    if not counted:
        return Consensus("skipped" if votes else "")
    if len(counted) == _TWO and counted[0][1] == counted[1][1]:
        return Consensus("conflict")
    label, number = counted[0][0]
    return Consensus("labelled", label, number)


def cohen(both: Sequence[tuple[int, int]]) -> float | None:
    """Return Cohen's kappa of what two have said of the same samples; None: it has no value."""
    total = len(both)
    if not total:
        return None
    agreed = sum(one == other for one, other in both) / total
    ones, others = Counter(one for one, _ in both), Counter(other for _, other in both)
    chance = sum(ones[number] * others[number] for number in ones) / total**2
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def fleiss(samples: Iterable[Sequence[int]]) -> float | None:
    """Return Fleiss' kappa.

    Args:
        samples: of each the class numbers that labellers gave it; those with fewer than two do not
            count.

    Returns:
        None: no sample has two labels, or chance alone would give full agreement.
    """
    agreed, count, said = 0.0, 0, Counter[int]()
    for labels in samples:
        given = len(labels)
        if given < _TWO:
            continue
        votes = Counter(labels)
        said.update(votes)
        count += 1
        agreed += sum(each * (each - 1) for each in votes.values()) / (given * (given - 1))
    if not count:
        return None
    total = sum(said.values())
    chance = sum((each / total) ** 2 for each in said.values())
    return None if chance == 1 else (agreed / count - chance) / (1 - chance)


def pairs(by_sample: Mapping[str, Mapping[str, int]], *, labellers_max: int) -> list[PairAgreement]:
    """Return how the busiest labellers agree, each two of them, most common samples first.

    Args:
        by_sample: class number by labeller, by sample.
        labellers_max: of how many labellers at most.
    """
    busy = Counter(labeller for votes in by_sample.values() for labeller in votes)
    chosen = sorted(labeller for labeller, _ in busy.most_common(labellers_max))
    common: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for votes in by_sample.values():
        here = [labeller for labeller in chosen if labeller in votes]
        for one, other in combinations(here, 2):
            common[one, other].append((votes[one], votes[other]))
    found = [
        PairAgreement(one, other, len(both), sum(a == b for a, b in both), cohen(both))
        for (one, other), both in common.items()
    ]
    return sorted(found, key=lambda pair: (-pair.samples, pair.one, pair.other))
