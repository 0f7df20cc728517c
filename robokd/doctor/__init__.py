"""Doctor: why a distillation would fail, said before the hours are spent."""
