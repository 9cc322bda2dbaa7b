"""LLM Scheduler: strict limits, a priority queue and records in front of GPU servers."""

__version__ = "0.1.0"
