"""Front ends of other projects on our engine: one file each, and what they need as an extra."""
