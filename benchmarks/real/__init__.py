"""Eleven real trained models that ship inside public packages, each with a real question to explain.

fetch.py gets the files, models.py builds the Keras models on the active backend, cases.py asks the questions.
"""
