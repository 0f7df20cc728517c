"""Parts: what tasks are put together from beside a body: things, grounds, gaits, grasps, what varies."""
