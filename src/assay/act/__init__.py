"""Acting on results: which data to fix, drop or keep."""
