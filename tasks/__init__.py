"""Tasks: one file each; `task=<file name>` on the command line."""

if __name__ != "robokd.tasks":
    # `import tasks` from the repository root would make a second copy of every class.
    raise ImportError(f"import this package as robokd.tasks, got {__name__}")
