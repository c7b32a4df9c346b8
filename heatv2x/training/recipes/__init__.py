"""Recipes: the settings of whole trainings, each with its command and what it needs at its head."""

from pathlib import Path

FOLDER = Path(__file__).parent
