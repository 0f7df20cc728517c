"""Stage defaults and experiments, read by Hydra."""

if __name__ != "robokd.configs":
    # `import tasks` from the repository root would make a second copy of every class.
    raise ImportError(f"import this package as robokd.configs, got {__name__}")
