"""`python -m tools.benchmark ops`: every fused op beside what it replaces."""
