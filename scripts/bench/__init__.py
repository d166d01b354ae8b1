"""The parts of the benchmark: candidates, measuring, aims, report and picture."""
