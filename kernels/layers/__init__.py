"""What stands between the products of a decoder layer."""
