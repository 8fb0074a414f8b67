"""Gathers the facts for a page about a home: classes, accuracy, confusions, cost, and the model's origin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from .. import inspection
from ..home.home import Generation, Home
from ..home.readers import InfoReport, info
from ..increment.reports import IncrementReport
from ..learning.class_statistics import ClassStatistics
from ..learning.regrouping import is_solved
from ..model.bundle import Bundle, open_bundle
from ..model.evaluation import EvaluationReport
from ..model.ledger import Ledger, LedgerEntry
from ..model.tensors import CONFUSIONS, RIGHT, RIGHT_SOLVED, TOTAL, WEIGHT, Arrays
from ..proofs.auditor import audit
from ..proofs.reports import AuditReport
from ..proofs.verification import VerificationReport, verify
from ..records import report_nothing

_CONFIDENCE = 0.95
_LISTED_CONFUSIONS = 12
FACT_STEPS = 3
NOW, SHIPPED = "for this page", "by the vendor"
THEN = "when the class was learnt, with the model of that day"


@dataclass(frozen=True)
class ClassFact:
    """Says how well the model knows one class.

    Attributes:
        name: Name of the class.
        shipped: Whether the vendor shipped the class.
        right: Number of photos that were recognised.
        total: Number of photos that were judged; 0 if there is no figure for the class.
        source: Words that say who measured the class, or when.
    """

    name: str
    shipped: bool
    right: int = 0
    total: int = 0
    source: str = ""

    @property
    def share(self) -> float:
        """Returns the share of the class's photos that were recognised."""
        return self.right / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Returns the 95% confidence interval of the true share, which is wide if there were few photos."""
        return wilson_interval(self.right, self.total)


@dataclass(frozen=True)
class ConfusionFact:
    """Says how often one class was mistaken for another, and who counted it, or when."""

    actual: str
    predicted: str
    photos: int
    source: str


@dataclass(frozen=True)
class Facts:
    """Holds the facts about a home that a page shows.

    Attributes:
        info: Description of the home's model.
        classes: Facts about each class, in class_index order.
        confusions: Most frequent confusions.
        ledger: Entries that the ledger keeps, oldest first.
        receipt: Receipt of the latest change; None if it is not an increment's, or the file is damaged.
        audit: Report of the auditor on the home.
        custody: Verdict on the chain of custody from the base to this model.
        evaluation: Evaluation on photos that were given for the page; None if there were none.
    """

    info: InfoReport
    classes: tuple[ClassFact, ...]
    confusions: tuple[ConfusionFact, ...]
    ledger: tuple[LedgerEntry, ...]
    receipt: IncrementReport | None
    audit: AuditReport
    custody: VerificationReport
    evaluation: EvaluationReport | None


def gather_facts(
    home: Home,
    evaluation: EvaluationReport | None = None,
    report: Callable[[], None] = report_nothing,
) -> Facts:
    """Reads a home's model, receipt and ledger, audits the home, and verifies its chain of custody.

    Args:
        home: Model home.
        evaluation: Evaluation of this model on labelled photos; None if there are none.
        report: Function that is called before each of `FACT_STEPS` steps.
    """
    report()
    ledger, receipt, classes, confusions = home.read(lambda g: _facts_of_model(g, evaluation))
    first = [ledger.first] if ledger.first and ledger.first not in ledger.latest else []
    found = info(home)
    report()
    audited = audit(home)
    report()
    return Facts(
        info=found,
        classes=classes,
        confusions=confusions,
        ledger=(*first, *ledger.latest),
        receipt=receipt,
        audit=audited,
        custody=verify(home),
        evaluation=evaluation,
    )


def _facts_of_model(
    generation: Generation, evaluation: EvaluationReport | None
) -> tuple[Ledger, IncrementReport | None, tuple[ClassFact, ...], tuple[ConfusionFact, ...]]:
    """Reads the ledger, the receipt, the classes and the confusions of a generation."""
    bundle, receipt = open_bundle(generation.bundle), _receipt(generation)
    classes, confusions = _classes(bundle, receipt, evaluation), _confusions(bundle, receipt, evaluation)
    return bundle.manifest.ledger, receipt, classes, confusions


def _receipt(generation: Generation) -> IncrementReport | None:
    """Reads the latest change's receipt; None if it is not an increment's, or the file is damaged."""
    try:
        return IncrementReport.model_validate_json(inspection.read_regular(generation.receipt))
    except (ValidationError, OSError):
        return None


def _classes(
    bundle: Bundle, receipt: IncrementReport | None, evaluation: EvaluationReport | None
) -> tuple[ClassFact, ...]:
    m, arrays = bundle.manifest, bundle.arrays(RIGHT, RIGHT_SOLVED, TOTAL)
    right, total = _rightly_recognised(bundle, arrays), arrays[TOTAL]
    measured: dict[str, tuple[int, int, str]] = {
        name: (int(right[i]), int(total[i]), SHIPPED) for i, name in enumerate(m.class_names) if total[i]
    }
    measured |= {c.class_name: (c.right, c.photos, THEN) for c in (receipt.judged if receipt else ())}
    measured |= {m.class_names[c.class_index]: (c.right, c.photos, THEN) for c in m.judged}
    if evaluation:
        counts = evaluation.photos_per_class
        measured |= {
            name: (round(share * counts[name]), counts[name], NOW)
            for name, share in evaluation.per_class.items()
        }
    return tuple(
        ClassFact(name, i < m.shipped_classes, *measured.get(name, (0, 0, "")))
        for i, name in enumerate(m.class_names)
    )


def _rightly_recognised(bundle: Bundle, arrays: Arrays) -> NDArray[np.int32]:
    """Returns the vendor's counts of recognised photos for the current head.

    The vendor counted with the shipped head, and again with a head computed from the class statistics.
    A renaming or a calibration keeps the shipped head, and undo can bring it back. So this looks at the head
    itself, not at the number of changes.
    """
    right: NDArray[np.int32] = arrays[RIGHT]
    solved: NDArray[np.int32] = arrays[RIGHT_SOLVED]
    if np.array_equal(right, solved):
        return right
    weight = bundle.arrays(WEIGHT)[WEIGHT][: len(bundle.manifest.class_names)].astype(np.float64)
    return solved if is_solved(weight, ClassStatistics.from_bundle(bundle)) else right


def _confusions(
    bundle: Bundle, receipt: IncrementReport | None, evaluation: EvaluationReport | None
) -> tuple[ConfusionFact, ...]:
    names = bundle.manifest.class_names
    if evaluation:
        found = [ConfusionFact(c.actual, c.predicted, c.photos, NOW) for c in evaluation.confusions]
    else:
        found = [
            ConfusionFact(c.class_name, c.taken_for, c.photos_taken, THEN)
            for c in (receipt.judged if receipt else ())
            if c.taken_for
        ]
        rows = bundle.arrays(CONFUSIONS)[CONFUSIONS].tolist()
        found += [ConfusionFact(names[a], names[b], n, SHIPPED) for a, b, n in rows if n]
    return tuple(sorted(found, key=lambda c: -c.photos)[:_LISTED_CONFUSIONS])


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Computes Wilson's score interval of a share at 95% confidence; it is 0 to 1 if nothing was counted."""
    if not total:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_share(classes: Sequence[ClassFact]) -> float | None:
    """Computes the mean share over the classes that were measured; None if there are none."""
    shares = [fact.share for fact in classes if fact.total]
    return sum(shares) / len(shares) if shares else None
