"""A run and its evaluations as one HTML file that needs nothing else: no network, no script.

run, evaluation -> tables, chart, classes, scatter, gallery -> page
"""

from __future__ import annotations

from training.report.evaluation import Evaluation, read_evaluation
from training.report.facts import duration
from training.report.page import write_report

__all__ = ["Evaluation", "duration", "read_evaluation", "write_report"]
