"""Simulators: one file each; `sim=<name>`."""
