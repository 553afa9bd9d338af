"""An explanation as text: tables for a terminal and a notebook."""
