"""Vectorised environments and the protocols of tasks."""
