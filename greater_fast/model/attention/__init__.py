"""How a model is given another attention, and what is tried of its own."""
