"""Settings of `dlcli eval` and `dlcli predict`."""

from __future__ import annotations

from dlcli.config.shared import BadSamples, EvaluationData, Inference
from dlcli.settings import setting


class EvalConfig(BadSamples, Inference, EvaluationData):
    """Evaluation"""

    baselines: bool = setting(
        False, "Fit strong baselines too: TF-IDF, linear, boosted trees, 1-NN.", "--baselines"
    )

    worst: int | None = setting(
        None, "List this many samples with the largest loss, and write them as CSV.", "--worst", ge=1
    )
    ensemble: bool = setting(
        False, "Average the predictions of several models, instead of comparing them.", "--ensemble"
    )


class PredictConfig(Inference):
    """Prediction"""

    top_k: int = setting(3, "Number of classes per sample, most likely first.", "--top-k", "-k", ge=1)
