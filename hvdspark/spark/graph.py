"""SparkComputationGraph: a network with several inputs and outputs, trained and used on Spark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, final

from hvdspark.data import ColumnPlan, ColumnsLike, Table, TensorColumn, plan_fields
from hvdspark.errors import ConfigurationError, UnsupportedError
from hvdspark.masters import TrainingMaster
from hvdspark.network import JointLoss, Network, check_inputs
from hvdspark.spark.each_output import EachOutput
from hvdspark.spark.heads import names_of
from hvdspark.spark.inference import predict
from hvdspark.spark.keyed import feed_forward_with_key
from hvdspark.spark.matrices import is_matrix, predict_inputs
from hvdspark.spark.sources import portable_column

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["SparkComputationGraph"]

Inputs: TypeAlias = Sequence[ColumnsLike] | Mapping[str, ColumnsLike]
Masks: TypeAlias = Sequence[ColumnsLike | None] | Mapping[str, ColumnsLike | None]


@final
class SparkComputationGraph(EachOutput):
    """A network with several inputs and outputs on Spark: fit, evaluate, score, predict.

    Parameters
    ----------
    spark : SparkSession
        Where it runs.
    network : Network
        What is trained and used. With several outputs its module returns a tuple or list, and its loss is a
        `JointLoss`, a loss and a weight for each; or a function of two tuples, ``(outputs, targets)``.
    training_master : TrainingMaster, optional
        How it is trained; without one, `fit` is refused.
    feature_cols : list or dict
        One entry an input: in the order of the module's arguments, or by their names. Each is a column of vectors or
        arrays, a list of scalar columns, or a `TensorColumn`. All column options serve DataFrames and Parquet files,
        and are not looked at for RDDs and other files, whose inputs and outputs come in order.
    label_cols : list or dict
        One entry an output, in the order in which the module returns them. A dict names the outputs; else they are
        called by their label columns, or by their numbers where these do not tell them apart.
    features_mask_cols, labels_mask_cols : list or dict, optional
        Columns of 0 and 1, or booleans, in the order of inputs or outputs with None for those without; or by name.
    weight_col : str, optional
        A column of numbers from 0 on, which each example's loss is multiplied with in training, validation and scores.
    default_evaluation_workers : int
        How many copies of the network a host holds at once while it is evaluated or scored by `calculate_score`; it may
        be set later. Tasks beyond it wait.
    device : str, optional
        Where the network is used: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:0"; it may be set later.
        None: as the training master has it, else "auto".

    Raises
    ------
    ConfigurationError
        If an option is of the wrong form.
    """

    def __init__(
        self,
        spark: SparkSession,
        network: Network,
        training_master: TrainingMaster | None = None,
        *,
        feature_cols: Inputs = ("features",),
        label_cols: Inputs = ("label",),
        features_mask_cols: Masks = (),
        labels_mask_cols: Masks = (),
        weight_col: str | None = None,
        default_evaluation_workers: int = 4,
        device: str | None = None,
    ) -> None:
        self.feature_cols = _entries("feature_cols", feature_cols)
        self.label_cols = _entries("label_cols", label_cols)
        self.features_mask_cols = _masks("features_mask_cols", features_mask_cols, self.feature_cols)
        self.labels_mask_cols = _masks("labels_mask_cols", labels_mask_cols, self.label_cols)
        self.weight_col = weight_col
        super().__init__(spark, network, training_master, default_evaluation_workers, device)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the outputs are called, in order, in results and in columns of `predict`.

        The keys of a dict `label_cols`, else the names of label columns, where each output has one of its own; else
        numbers from 0.
        """
        names = list(self.label_cols) if isinstance(self.label_cols, Mapping) else _names(self.label_cols)
        loss = self.network.loss
        return tuple(names_of(names, len(loss.losses) if isinstance(loss, JointLoss) else len(self.label_cols)))

    def predict(self, data: Any, *, batch_size: int = 64) -> Any:
        """Say what the network says of features.

        Parameters
        ----------
        data : DataFrame; ndarray, torch.Tensor, vector or matrix of Spark's; or a list, tuple or dict of these
            A DataFrame with the columns of features, which may be streaming; or examples that the driver holds: one
            input `[n, ...]`, a list or tuple of several in order, a dict by the module's arguments. Inputs of one axis
            each are one example.
        batch_size : int
            Rows that go through the network at a time.

        Returns
        -------
        DataFrame, ndarray, torch.Tensor, DenseVector or DenseMatrix, or a list, tuple or dict of them
            Of a DataFrame: all its columns, and for each output `prediction_<name>` (class index as a double, or the
            value) and, for class losses, `probability_<name>`; with one output `prediction` and `probability`. Of what
            the driver holds: probabilities or values, of the same kind, and of several outputs in the same form; a dict
            is one by the names of outputs.

        Raises
        ------
        UnsupportedError
            If data are of another kind.
        ConfigurationError
            If the module does not take such inputs.
        DataError
            If the DataFrame has a column of an added name, or features cannot be read.
        """
        from pyspark.sql import DataFrame

        if isinstance(data, DataFrame):
            table = Table(data, self._plan(data, None, labelled=False))
            return predict(self.network, table, batch_size, self.output_names, device=self._where())
        if is_matrix(data) or isinstance(data, list | tuple | Mapping):
            return predict_inputs(self.network, data, batch_size, self.output_names, device=self._where_on_driver())
        raise UnsupportedError(
            "predict takes a Spark DataFrame, an array, a tensor, a vector or matrix of Spark's, or a list, tuple or "
            f"dict of them, and this is a {type(data).__name__}: spark.createDataFrame(...), or feed_forward_with_key "
            "for pairs"
        )

    def feed_forward_with_key(self, pairs: RDD[Any], *, batch_size: int = 64) -> RDD[Any]:
        """Return (key, outputs) for each (key, inputs) or (key, (inputs, masks)) of an RDD.

        Parameters
        ----------
        pairs : RDD
            Inputs are a list in the order of the module's arguments or a dict by their names, or one input alone: each
            of one example, without an axis of examples. Masks have the same form, None for an input without. They go to
            the module, as the argument ``features_mask``.
        batch_size : int
            Examples that go through the network at a time, those of equal shapes together.

        Returns
        -------
        RDD
            Of (key, outputs), in the order of the pairs: an ndarray of probabilities or values; with several outputs a
            list of them, a dict by name where inputs are a dict, and a tuple where there is one input alone.

        Raises
        ------
        UnsupportedError
            If this is no RDD.
        """
        return feed_forward_with_key(self.network, pairs, batch_size, self.output_names, device=self._where())

    def _plan(
        self, frame: DataFrame, validation_col: str | None, *, labelled: bool = True, weighted: bool = True
    ) -> ColumnPlan:
        by_name = isinstance(self.feature_cols, Mapping)
        arguments = list(self.feature_cols) if isinstance(self.feature_cols, Mapping) else [""] * len(self.feature_cols)
        check_inputs(self.network.own_module, arguments, "feature_cols")
        if labelled:
            self._check_labels()
        columns = _values(self.feature_cols)
        return plan_fields(
            frame,
            feature_cols=dict(zip(arguments, columns, strict=True)) if by_name else columns,
            label_cols=_values(self.label_cols) if labelled else [],
            features_mask_cols=self.features_mask_cols,
            labels_mask_cols=self.labels_mask_cols if labelled else (),
            weight_col=self.weight_col if labelled and weighted else None,
            validation_col=validation_col,
        )

    def _check_labels(self) -> None:
        loss = self.network.loss
        if isinstance(loss, JointLoss) and len(loss.losses) != len(self.label_cols):
            raise ConfigurationError(
                f"label_cols: the network has {len(loss.losses)} outputs, by its JointLoss, and {len(self.label_cols)} "
                f"have a label column: give one for each, in the order in which the module returns them"
            )


def _entries(option: str, given: Any) -> Inputs:
    if isinstance(given, str | TensorColumn) or not isinstance(given, Sequence | Mapping):
        raise ConfigurationError(
            f"{option}: a list with an entry for each, or a dict by name, is needed, not {given!r}: [{given!r}] for one"
        )
    if not given:
        raise ConfigurationError(f"{option}: at least one is needed")
    for entry in given.values() if isinstance(given, Mapping) else given:
        if not isinstance(entry, str | TensorColumn | Sequence) or not entry:
            raise ConfigurationError(
                f"{option}: the name of a column, a list of names or a TensorColumn, not {entry!r}"
            )
    return dict(given) if isinstance(given, Mapping) else list(given)


def _masks(option: str, given: Masks, owners: Inputs) -> list[ColumnsLike | None]:
    """Return one mask for each owner, None for those without."""
    if isinstance(given, str | TensorColumn) or not isinstance(given, Sequence | Mapping):
        raise ConfigurationError(f"{option}: a list with None for those without, or a dict by name, not {given!r}")
    names = list(owners) if isinstance(owners, Mapping) else _names(owners)
    if isinstance(given, Mapping):
        strange = [name for name in given if name not in names]
        if strange:
            raise ConfigurationError(f"{option}: {strange[0]!r} is none of {', '.join(map(str, names))}")
        return [given.get(name) for name in names]
    if given and len(given) != len(owners):
        raise ConfigurationError(
            f"{option}: {len(given)} are given for {len(owners)}: give one for each, None for those without"
        )
    return list(given)


def _values(given: Inputs) -> list[ColumnsLike]:
    return [portable_column(each) for each in (given.values() if isinstance(given, Mapping) else given)]


def _names(columns: Iterable[ColumnsLike]) -> list[str]:
    """Return names of columns as names of what is made from them, numbers where they do not tell all apart."""
    whole = [each.column if isinstance(each, TensorColumn) else each for each in columns]
    names = [each for each in whole if isinstance(each, str)]
    apart = len({name.casefold() for name in names}) == len(whole)
    return names if apart else [str(number) for number in range(len(whole))]
