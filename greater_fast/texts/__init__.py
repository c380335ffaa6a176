"""Text in, text out, by either engine."""
