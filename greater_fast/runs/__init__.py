"""One run: search, finals, test, and the files it leaves."""
