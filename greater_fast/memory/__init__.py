"""What a run takes of a device's memory."""
