"""The robot side: drivers, safety layer, fixed-rate loop.

Nothing here imports torch, except the simulated robot's process.
"""

if __name__ != "robokd.sim2real":
    # `import tasks` from the repository root would make a second copy of every class.
    raise ImportError(f"import this package as robokd.sim2real, got {__name__}")
