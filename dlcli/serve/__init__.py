"""Models behind HTTP: the Open Inference Protocol v2 and ``/predict``. No torch here."""
