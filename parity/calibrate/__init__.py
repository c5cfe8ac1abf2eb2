"""`parity calibrate`: false positives, power and coverage of the judge, from worlds where the truth is known."""
