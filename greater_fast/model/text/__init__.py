"""Texts and ids: the tokenizer, the chat template, and the scripts of the world."""
