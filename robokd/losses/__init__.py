"""Distillation losses: one file each; `loss=[<name>,...]`."""
