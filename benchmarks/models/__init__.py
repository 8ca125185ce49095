"""Scripts that make the models of the benchmarks from data that anybody has; run by hand."""
