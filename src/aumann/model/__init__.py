"""A model as a function F with derivatives: what it takes, how it is called, what one look finds out."""
