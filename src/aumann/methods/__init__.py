"""Methods: each says what is summed along which path, and returns values with what is known of their error."""
