"""The model's norms, MLPs and residual adds on a GPU, in few launches, by Triton."""
