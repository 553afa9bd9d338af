"""Features of the inputs: nested structures of arrays, their axes, groups, and the names of columns and rows."""
