"""What the features of the inputs are: nested arrays, their axes, groups, the names of columns and rows."""
