"""Curricula: which of a task's episodes training runs."""
