"""What an explanation says of segments, frequencies and letters."""
