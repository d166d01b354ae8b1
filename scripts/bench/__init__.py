"""The parts of the benchmark: how it measures, what it compares, which targets it judges, and the picture."""
