"""Bodies: robots' models, their names, limits and poses. Tasks move them."""
