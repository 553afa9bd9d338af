"""One call of `explain`: what was given is resolved, F taken at the ends, the integral summed, its error judged."""
