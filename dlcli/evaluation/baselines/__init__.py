"""What a model has to beat: simple predictions, and models that scikit-learn fits."""
