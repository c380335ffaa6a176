"""The engines that write the model's reasoning."""
