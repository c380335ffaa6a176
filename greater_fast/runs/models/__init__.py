"""One model or several: which go together, made ready, and measured."""
