"""How numbers, times, characters, tables and arrays are written in files."""
