"""Speed beside what one would use instead: `robokd bench what=…`; correctness is checked first."""
