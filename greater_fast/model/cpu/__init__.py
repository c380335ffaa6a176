"""The model's linear layers and attention on a CPU, by csrc."""
