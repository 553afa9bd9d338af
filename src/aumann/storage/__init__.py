"""Files that are written entirely or not at all, and checked before they are read."""
