"""Foreign: what tasks of other frameworks need, gymnasium's, Isaac Lab's and mjlab's."""
