"""The learning stages: teach, distill, refine."""
