"""What front ends for networks with several outputs measure of them: one result for each output that fits."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from hvdspark.data import Loader
from hvdspark.errors import ConfigurationError, DataError
from hvdspark.evaluation import (
    ROC,
    ClassMeasure,
    Evaluation,
    Measure,
    RegressionEvaluation,
    RegressionMeasure,
    RocMeasure,
    ROCMultiClass,
    RocMultiClassMeasure,
)
from hvdspark.network import CLASS_LOSSES, JointLoss
from hvdspark.spark.evaluation import as_measures, tells_classes
from hvdspark.spark.measured import MeasuredModel
from hvdspark.spark.model import TrainingData

__all__ = ["EachOutput"]

T = TypeVar("T")
Words: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]
_Found: TypeAlias = T | dict[str, T]


class EachOutput(MeasuredModel, abc.ABC):
    """A network on Spark with any number of outputs, each evaluated by its own loss.

    With several outputs the methods return a dict, by the names of the outputs that they fit; with one output, or where
    `output` names one, they return its result alone.
    """

    @property
    @abc.abstractmethod
    def output_names(self) -> tuple[str, ...]:
        """What the outputs are called, in order; with a `JointLoss`, as many as it has losses."""

    def evaluate(
        self,
        data: TrainingData,
        *,
        output: str | int | None = None,
        labels: Words | None = None,
        top_n: int = 1,
        batch_size: int = 64,
        loader: Loader | None = None,
    ) -> Evaluation | dict[str, Evaluation]:
        """Count how well classes are told apart, in one pass (CrossEntropyLoss, NLLLoss, and BCE losses of one column).

        Parameters
        ----------
        data : DataFrame, RDD, path or list of paths
            What `fit` takes. Each row counts once, whatever its weight; labels masks say which steps count.
        output : str or int, optional
            The name or number of one output. None: each that tells classes apart.
        labels : sequence of str, or dict of them, optional
            Names of the classes, in order; for several outputs by output.
        top_n : int
            What `top_n_accuracy` looks at.
        batch_size : int
            Rows that go through the network at a time.
        loader : callable, optional
            As of `fit`.

        Returns
        -------
        Evaluation or dict
            See the class.

        Raises
        ------
        ConfigurationError
            If no output tells classes apart, or not the one that is asked for; or there is no such output.
        DataError
            If rows cannot be read, labels are no class indices, or there is no row.
        """
        measure = ClassMeasure(top_n=top_n)
        found: _Found[Evaluation]
        found = self._classes(data, "evaluate", measure, output, batch_size, loader, labels=labels)
        return found

    def evaluate_regression(
        self,
        data: TrainingData,
        *,
        output: str | int | None = None,
        columns: Words | None = None,
        batch_size: int = 64,
        loader: Loader | None = None,
    ) -> RegressionEvaluation | dict[str, RegressionEvaluation]:
        """Compare values column by column, of each output whose loss is not one of classes.

        Parameters
        ----------
        data, output, batch_size, loader
            As of `evaluate`.
        columns : sequence of str, or dict of them, optional
            Names of an output's columns, in order; for several outputs by output.

        Raises
        ------
        ConfigurationError
            If no output gives values, or not the one that is asked for.
        """
        fits = [not isinstance(loss, CLASS_LOSSES) for loss in self._losses()]
        places = self._places("evaluate_regression", output, fits, "compares values, but {}: use evaluate")
        found: _Found[RegressionEvaluation]
        found = self._by_output(data, RegressionMeasure(), places, output, batch_size, loader, columns=columns)
        return found

    def evaluate_roc(
        self,
        data: TrainingData,
        *,
        output: str | int | None = None,
        threshold_steps: int = 32,
        batch_size: int = 64,
        loader: Loader | None = None,
    ) -> ROC | dict[str, ROC]:
        """Compute the ROC of class 1, of outputs with one column or two classes.

        Parameters
        ----------
        data, output, batch_size, loader
            As of `evaluate`. Of several outputs, those that tell more than two classes apart are left out.
        threshold_steps : int
            Thresholds 0, 1/k, ..., 1; 0 keeps every score and is exact.
        """
        method = "evaluate_roc"
        if output is not None or sum(map(tells_classes, self._losses())) < 2:
            one: _Found[ROC] = self._classes(
                data, method, RocMeasure(threshold_steps=threshold_steps), output, batch_size, loader
            )
            return one
        # How many classes an output tells apart is known once it has said something: all are asked for all classes.
        measure = RocMultiClassMeasure(threshold_steps=threshold_steps)
        every: dict[str, ROCMultiClass] = self._classes(data, method, measure, None, batch_size, loader)
        found = {name: replace(of.rocs[1], name="") for name, of in every.items() if len(of.rocs) == 2}
        if not found:
            told = ", ".join(f"{name!r} tells {len(of.rocs)} apart" for name, of in every.items())
            raise DataError(f"evaluate_roc is for two classes, and {told}: take evaluate_roc_multi_class")
        return found

    def evaluate_roc_multi_class(
        self,
        data: TrainingData,
        *,
        output: str | int | None = None,
        threshold_steps: int = 32,
        labels: Words | None = None,
        batch_size: int = 64,
        loader: Loader | None = None,
    ) -> ROCMultiClass | dict[str, ROCMultiClass]:
        """Compute the ROC of each class against all others; parameters as of `evaluate` and `evaluate_roc`."""
        measure = RocMultiClassMeasure(threshold_steps=threshold_steps)
        found: _Found[ROCMultiClass]
        found = self._classes(data, "evaluate_roc_multi_class", measure, output, batch_size, loader, labels=labels)
        return found

    def do_evaluation(
        self, data: TrainingData, *measures: Any, batch_size: int = 64, loader: Loader | None = None
    ) -> list[Any] | dict[str, list[Any]]:
        """Take several measures in one pass.

        Parameters
        ----------
        data, batch_size, loader
            As of `evaluate`.
        measures : Measure, torchmetrics.Metric or torchmetrics.MetricCollection; or one dict
            What is measured: each looks at the output whose number it was given (``ClassMeasure(output=1)``). Or one
            dict: the name of an output -> a list of measures that look at it.

        Returns
        -------
        list, or dict of lists
            The result of each, in the form in which measures were given; that of a metric is a dict by its name.

        Raises
        ------
        ConfigurationError
            If the network has no such output.
        UnsupportedError
            If a metric does not merge over partitions; nothing has run then.
        """
        if not any(isinstance(each, Mapping) for each in measures):
            return self._evaluate(data, as_measures(measures), batch_size, loader)
        if len(measures) > 1:
            raise ConfigurationError("do_evaluation takes measures, or one dict of lists of them by output: not both")
        given = {name: list(some) if isinstance(some, list | tuple) else [some] for name, some in measures[0].items()}
        flat = [
            each.replaced(output=self._place(name, "do_evaluation"))
            for name, some in given.items()
            for each in as_measures(some)
        ]
        found = iter(self._evaluate(data, as_measures(flat), batch_size, loader))
        return {name: [next(found) for _ in some] for name, some in given.items()}

    def _classes(
        self,
        data: TrainingData,
        method: str,
        measure: Measure,
        output: str | int | None,
        batch_size: int,
        loader: Loader | None,
        **words: Words | None,
    ) -> Any:
        fits = [tells_classes(loss) for loss in self._losses()]
        needed = (
            "counts classes, but {}: CrossEntropyLoss, NLLLoss, BCELoss or BCEWithLogitsLoss is needed, with several "
            "outputs in a JointLoss; do_evaluation measures anything"
        )
        places = self._places(method, output, fits, needed)
        return self._by_output(data, measure, places, output, batch_size, loader, one_class=method, **words)

    def _places(self, method: str, output: str | int | None, fits: Sequence[bool], needed: str) -> list[int]:
        """Return the numbers of the outputs that a method measures: those that fit, or the one that is asked for."""
        names, losses = self.output_names, [type(loss).__name__ for loss in self._losses()]
        asked = range(len(names)) if output is None else [self._place(output, method)]
        places = [place for place in asked if fits[place]]
        if not places:
            each = ", ".join(f"{names[place]!r} by {losses[place]}" for place in asked)
            told = f"the loss is {losses[0]}" if len(names) == 1 else f"outputs are read by other losses ({each})"
            raise ConfigurationError(f"{method} {needed.format(told)}")
        return places

    def _by_output(
        self,
        data: TrainingData,
        measure: Measure,
        places: Sequence[int],
        output: str | int | None,
        batch_size: int,
        loader: Loader | None,
        one_class: str = "",
        **words: Words | None,
    ) -> Any:
        """Take a measure of some outputs; `words` are those options of it that give names, maybe by output."""
        names = self.output_names
        told = {option: self._words(option, given, places) for option, given in words.items()}
        measures = [
            measure.replaced(output=place, **{option: by[place] for option, by in told.items()}) for place in places
        ]
        how = {"one_class": one_class, "one_output": len(names) == 1}
        found = self._evaluate(data, measures, batch_size, loader, **how)
        if output is not None or len(names) == 1:
            return found[0]
        return dict(zip((names[place] for place in places), found, strict=True))

    def _words(self, option: str, given: Words | None, places: Sequence[int]) -> dict[int, tuple[str, ...]]:
        """Return the names that an option gives for each of some outputs."""
        if given is None or isinstance(given, Mapping):
            by = {self._place(name, option): tuple(words) for name, words in (given or {}).items()}
            return {place: by.get(place, ()) for place in places}
        if len(places) > 1:
            names = ", ".join(f"{self.output_names[place]!r}: [...]" for place in places)
            raise ConfigurationError(f"{option}: {len(places)} outputs are evaluated: give a dict, {{{names}}}")
        return {places[0]: tuple(given)}

    def _losses(self) -> list[Any]:
        """Return the loss of each output; a function of the user's stands for all."""
        loss = self.network.loss
        return list(loss.losses) if isinstance(loss, JointLoss) else [loss] * len(self.output_names)

    def _place(self, output: str | int, method: str) -> int:
        names = self.output_names
        if output in names:
            return names.index(str(output))
        if isinstance(output, int) and not isinstance(output, bool) and 0 <= output < len(names):
            return output
        known = ", ".join(map(repr, names))
        raise ConfigurationError(f"{method}: there is no output {output!r}; there are {known}, counted from 0")
