"""Settings of `dlcli eval` and `dlcli predict`."""

from typing import Annotated, Literal

from dlcli.config.bounds import parse_coverage
from dlcli.config.shared import (
    BadSamples,
    DecodingThreads,
    Device,
    EvaluationData,
    ForeignTable,
    Inference,
    UserMetrics,
)
from dlcli.schema import Frozen
from dlcli.settings import parsed_by, setting


class Intervals(Frozen):
    """Intervals around predicted numbers"""

    intervals: Annotated[str | None, parsed_by(parse_coverage)] = setting(
        None,
        "Numbers, forecasts: intervals that hold this share of true values, as 90%.",
        "--intervals",
    )


class EvalConfig(Intervals, UserMetrics, BadSamples, Inference, ForeignTable, EvaluationData):
    """Evaluation"""

    baselines: bool = setting(
        False, "Fit strong baselines too: TF-IDF, linear, boosted trees, 1-NN.", "--baselines"
    )

    worst: int | None = setting(
        None, "List this many samples with the largest loss, and write them as CSV.", "--worst", ge=1
    )
    explain: bool = setting(
        False, "Explain the worst samples in the run's report, as dlcli explain does.", "--explain"
    )
    slices: tuple[str, ...] = setting(
        (),
        "The metric by a column's values or quartiles, or by length (texts), pixels, aspect (images).",
        "--slice",
    )
    ensemble: bool = setting(
        False, "Average the predictions of several models, instead of comparing them.", "--ensemble"
    )
    calibrate: bool = setting(
        False, "First fit a temperature on val that calibrates the probabilities.", "--calibrate"
    )
    thresholds: Literal["f1", "balanced_accuracy", "matthews_corrcoef"] | None = setting(
        None, "First fit on val from which probability a label is predicted, by metric.", "--thresholds"
    )


class PredictConfig(Intervals, Inference):
    """Prediction"""

    top_k: int = setting(3, "Number of classes per sample, most likely first.", "--top-k", "-k", ge=1)
    probabilities: bool = setting(
        False, "Write the probability of every class, in their order, not the top k.", "--probabilities"
    )
    id_column: str | None = setting(
        None, "Column of the input table whose cells name the rows.", "--id-column"
    )
    keep_columns: str | None = setting(
        None, "Columns of the input table to carry over: all, or A,B.", "--keep-columns"
    )


class ExplainConfig(Device, DecodingThreads):
    """Explanation"""

    method: Literal["auto", "gradcam", "occlusion"] = setting(
        "auto",
        "Grad-CAM (images; needs gradients) or occlusion (any file); auto: Grad-CAM where it can.",
        "--method",
    )
    layer: str | None = setting(
        None, "Layer of Grad-CAM (default: the last with a map over the image).", "--layer"
    )
    target: str | None = setting(
        None, "Class or target column to explain (default: the predicted class).", "--target"
    )
