"""Teachers: one file each; `teacher=<name>`."""
