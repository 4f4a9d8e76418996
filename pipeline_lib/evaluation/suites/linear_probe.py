"""The linear probe of SentEval: logistic regression on frozen embeddings, its regularisation chosen by validation.

Where a set has a validation split, C is chosen there (SST-2); with train and test alone by cross-validation inside train (TREC,
MRPC); without any split the set is cross-validated, and C chosen by an inner cross-validation of each fold's training part (MR,
CR, SUBJ, MPQA). Features are the x embeddings, and |u - v| beside u * v for pairs. As in SentEval nothing is standardised.
N examples, D width.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation import metrics
from pipeline_lib.evaluation.suites.labelled_sets import POOL, PROBED, SENTEVAL_SETS, Example, LabelledSet, given_set
from pipeline_lib.evaluation.suites.models import Model, probe_features
from pipeline_lib.evaluation.suites.suite import (
    Families,
    Figure,
    Groups,
    Kind,
    Suite,
    SuiteResult,
    Suites,
    SuiteText,
    sample_rows,
)
from pipeline_lib.runtime.machine import cores
from pipeline_lib.runtime.progress import Progress, silent

if TYPE_CHECKING:  # a second, which names of suites need not wait for
    from sklearn.linear_model import LogisticRegression

MAX_ITERATIONS = 1000
NEWTON_FEATURES = 1024  # up to here a Newton step with the whole Hessian is cheaper than one by conjugate gradients
TOLERANCE = (
    1e-5  # of the mean loss's gradient; at 1e-4 the fit of the largest C ends where it begins, at that of the one before
)


class LinearProbe(Suite):
    """One labelled set, probed."""

    kind: Kind = "classification"

    def __init__(self, labelled: LabelledSet, data: Path, config: SuiteConfig) -> None:
        super().__init__(data, config)
        self.labelled = labelled
        self.name = labelled.name if labelled in PROBED else f"probe/{labelled.name}"
        # without a split of its own a set is judged as a whole, which is its test
        self.splits = ("test",) if POOL in labelled.files else ("validation", "test")

    def paths(self, split: str) -> tuple[Path, ...]:
        """Training files too; never the test's for validation."""
        return tuple(path for name in self._opened(split) for path in self.labelled.paths(self.data, name))

    def texts(self, split: str) -> Iterator[SuiteText]:
        """The texts that are judged; what the probe is trained on is no secret."""
        judged = split if split in self.labelled.files else POOL if POOL in self.labelled.files else "train"
        for example in self.labelled.examples(self.data, judged, self.left_out):
            yield SuiteText(example.id, example.text)
            if example.second:
                yield SuiteText(f"{example.id}-2", example.second)

    def run(self, model: Model, split: str, progress: Progress = silent) -> SuiteResult:
        """Accuracy and macro F1; F1 of class 1 for pairs, as SentEval reports MRPC."""
        examples = {name: self._sampled(name) for name in self._opened(split)}
        judged, predicted, chosen = self._predict(model, examples, split, progress)
        true_N = np.array([example.label for example in judged])
        ids = [example.id for example in judged]
        right_N = (predicted == true_N).astype(np.float64)
        bootstrap = (self.config.bootstrap, self.config.seed)
        figures = [
            Figure(self.task, "accuracy", metrics.mean_interval(right_N, *bootstrap), ids, right_N),
            Figure(self.task, "macro_f1", metrics.macro_f1_interval(predicted, true_N, *bootstrap)),
        ]
        if self.labelled.pairs:
            figures.append(Figure(self.task, "f1", metrics.macro_f1_interval(predicted, true_N, *bootstrap, ("1",))))
        return SuiteResult(tuple(figures), {"examples": len(judged), "inverse_regularisation": chosen})

    def _opened(self, split: str) -> tuple[str, ...]:
        if POOL in self.labelled.files:
            return (POOL,)
        return tuple(name for name in ("train", "validation", "test") if name in self.labelled.files and name in _needs(split))

    def _sampled(self, name: str) -> list[Example]:
        found = self.labelled.examples(self.data, name, self.left_out)
        most = self.config.max_train_texts if name in (POOL, "train") else self.config.max_test_texts
        if name == "train" and self.labelled.max_train and not most:
            most = self.labelled.max_train
            self.left_out["train_examples_beyond_the_bound"] = max(0, len(found) - most)
        return [found[row] for row in sample_rows(len(found), most, self.config.seed)]

    def _predict(
        self, model: Model, examples: dict[str, list[Example]], split: str, progress: Progress
    ) -> tuple[list[Example], np.ndarray, list[float]]:
        """The judged examples, the class predicted for each, and the C of each fit."""
        self._check_enough(examples)
        features = _Features(model, [example for part in examples.values() for example in part], progress)
        if POOL in examples:
            return _cross_validated(features, examples[POOL], self.config, progress)
        train = examples["train"]
        if "validation" in examples:  # C is chosen there, and kept for the test
            fits = _path(features, train, examples["validation"], self.config, progress)
            best = _best([right.mean() for right, _ in fits], self.config)
            if split == "validation":
                return examples["validation"], fits[best][1], [self.config.inverse_regularisation[best]]
        else:
            predictions, best = _folded(features, train, self.config, progress)
            if split == "validation":
                return train, predictions[best], [self.config.inverse_regularisation[best]]
        c = self.config.inverse_regularisation[best]
        train_features, test_features = features.of(train, examples["test"])
        return examples["test"], fit(train_features, _labels(train), c).predict(test_features), [c]

    def _check_enough(self, examples: dict[str, list[Example]]) -> None:
        """Raises UserError where some fit would see one class alone."""
        train = examples[POOL if POOL in examples else "train"]
        # a fold takes at most two of so many, and one is left for each inner fold
        least = 1 if "validation" in examples else self.config.folds + 2
        counts = Counter(example.label for example in train)
        if sum(n >= least for n in counts.values()) < 2:
            found = ", ".join(f"{n} of {label!r}" for label, n in sorted(counts.items()))
            raise UserError(
                f"{self.name}: the training examples are {found}; expected two classes with {least} or more each"
                f" ({self.config.folds} folds); are the files whole, and samples large enough?"
            )


class _Features:
    """Rows of features for any two lists of examples; an encoder's are looked up, a word model's learned from the first."""

    def __init__(self, model: Model, examples: Sequence[Example], progress: Progress) -> None:
        self.model = model
        self.pairs = bool(examples[0].second)
        texts = [text for example in examples for text in (example.text, example.second)[: 1 + self.pairs]]
        self.row = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        self.emb_ND = probe_features(model, list(self.row), (), progress)[0] if hasattr(model, "encode") else None

    def of(self, train: Sequence[Example], test: Sequence[Example]) -> tuple[Any, Any]:
        left = self._sides([example.text for example in train], [example.text for example in test])
        if not self.pairs:
            return left
        # one vocabulary for both sides of a word model
        both = [example.text for example in train] + [example.second for example in train]
        tests = [example.text for example in test] + [example.second for example in test]
        of_train, of_test = self._sides(both, tests)
        return _compared(of_train), _compared(of_test)

    def _sides(self, train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
        if self.emb_ND is None:
            return probe_features(self.model, train, test)
        # in float32 the Hessian of a weakly regularised probe is singular to working precision
        train_ND, test_ND = (self.emb_ND[[self.row[text] for text in texts]] for texts in (train, test))
        return train_ND.astype(np.float64), test_ND.astype(np.float64)


def _compared(both: Any) -> Any:
    n = both.shape[0] // 2
    u, v = both[:n], both[n:]
    from scipy import sparse

    if sparse.issparse(both):
        return sparse.hstack([abs(u - v), u.multiply(v)], format="csr")
    return np.hstack([np.abs(u - v), u * v])


def _needs(split: str) -> tuple[str, ...]:
    return ("train", "validation") if split == "validation" else ("train", "validation", "test")


def _labels(examples: Sequence[Example]) -> np.ndarray:
    return np.array([example.label for example in examples])


def fit(features: Any, labels: np.ndarray, c: float, start: LogisticRegression | None = None) -> LogisticRegression:
    """The probe with this C, fitted; `start` is the probe of another C, or one with a solver of its own."""
    from scipy import sparse
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classes = len(np.unique(labels))
    dense = not sparse.issparse(features)
    small = dense and features.shape[1] * (1 if classes == 2 else classes) <= NEWTON_FEATURES
    if dense and not small:
        features = features.astype(np.float32)  # conjugate gradients factorise nothing, and float32 halves their time
    probe = start or LogisticRegression(
        solver="newton-cholesky" if small else "newton-cg", tol=TOLERANCE, max_iter=MAX_ITERATIONS, warm_start=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the largest C on separable data; the others judge it
        return probe.set_params(C=c).fit(features, labels)


def _path(
    features: _Features,
    train: Sequence[Example],
    held_out: Sequence[Example],
    config: SuiteConfig,
    progress: Progress = silent,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each C: which of the held-out examples are right, and what was predicted; each fit starts from the last."""
    train_features, test_features = features.of(train, held_out)
    labels, true_N = _labels(train), _labels(held_out)
    probe, found, grid = None, [], config.inverse_regularisation
    for number, c in enumerate(grid, 1):
        probe = fit(train_features, labels, c, probe)
        predicted = probe.predict(test_features)
        found.append((predicted == true_N, predicted))
        progress(number, len(grid), f"probe {number} of {len(grid)} fitted, C = {c:g}")
    return found


def _best(scores: Sequence[float], config: SuiteConfig) -> int:
    """The best C; of equal ones the stronger regularisation."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], config.inverse_regularisation[i]))
    return order[0]


def _folds(examples: Sequence[Example], config: SuiteConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(config.folds, shuffle=True, random_state=config.seed)
    labels = _labels(examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer members than folds is in some folds only
        yield from folds.split(np.zeros(len(labels)), labels)


def _folded(
    features: _Features, examples: Sequence[Example], config: SuiteConfig, progress: Progress = silent
) -> tuple[list[np.ndarray], int]:
    """Cross-validated predictions for each C, and which C is best by the mean over the folds."""
    true_N = _labels(examples)
    predictions = [np.empty_like(true_N) for _ in config.inverse_regularisation]
    scores = np.zeros(len(predictions))
    folds = list(_folds(examples, config))

    def fit_fold(rows: tuple[np.ndarray, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        train, held_out = rows
        return _path(features, [examples[i] for i in train], [examples[i] for i in held_out], config)

    # a core a fold: a product with six columns does not fill two
    with threadpool_limits(1), ThreadPoolExecutor(cores()) as threads:
        for number, ((_, held_out), fits) in enumerate(zip(folds, threads.map(fit_fold, folds), strict=True), 1):
            for at, (right, predicted) in enumerate(fits):
                predictions[at][held_out] = predicted
                scores[at] += right.mean() / config.folds
            progress(number, config.folds, f"fold {number} of {config.folds}")
    return predictions, _best(scores.tolist(), config)


def _cross_validated(
    features: _Features, examples: list[Example], config: SuiteConfig, progress: Progress
) -> tuple[list[Example], np.ndarray, list[float]]:
    predicted = np.empty_like(_labels(examples))
    chosen = []
    for number, (rows, held_out) in enumerate(_folds(examples, config), 1):
        train = [examples[i] for i in rows]
        _, best = _folded(features, train, config)
        chosen.append(config.inverse_regularisation[best])
        train_features, test_features = features.of(train, [examples[i] for i in held_out])
        predicted[held_out] = fit(train_features, _labels(train), chosen[-1]).predict(test_features)
        progress(number, config.folds, f"fold {number} of {config.folds}, C = {chosen[-1]:g}")
    return examples, predicted, chosen


SUITES: Suites = {labelled.name: partial(LinearProbe, labelled) for labelled in PROBED}
FAMILIES: Families = {"probe": lambda folder, data, config: LinearProbe(given_set(folder), data, config)}
GROUPS: Groups = {"senteval": tuple(labelled.name for labelled in SENTEVAL_SETS)}
