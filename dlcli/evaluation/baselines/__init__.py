"""Baselines of an evaluation: simple predictors, and models that scikit-learn fits."""
