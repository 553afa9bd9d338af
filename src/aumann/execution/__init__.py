"""How a model is run: options, devices, how many rows a call takes, progress. Values depend on it by rounding alone."""
