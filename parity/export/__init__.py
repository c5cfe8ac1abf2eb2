"""`parity export`: an experiment as a folder that others can load, check and measure again."""
