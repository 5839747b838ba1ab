"""The pictures: PNG files drawn by matplotlib, and a curve in characters."""
