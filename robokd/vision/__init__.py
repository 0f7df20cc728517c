"""Renderers, image encodings and corruption; `renderer=<name>`."""
