"""Texts on which tokenizers differ."""

ODD_TEXTS = [
    "What is the capital of Peru?",
    "Don\u2019t pay 1,234.50 or 3.x at the caf\u00e9!",
    "  two\tspaces\n and\x00 controls\x85",
    "\u1100\u1161 e\u0301te\u0301 \u039f\u0394\u039f\u03a3 \u0130stanbul",  # a final sigma
    "\u6771\u4eac\u306f \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \U0001f44d\U0001f3fd \u200bzero\ufeffwidth",
    "under_score a-b/c's '90s rock'n'roll it'll",
    "unheard zyxwv",
    "",
    "long " * 300,
]
