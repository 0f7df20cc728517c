"""Students: one file each; `student=<name>`."""
