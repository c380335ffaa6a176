"""Rows of data, and their token ids."""
