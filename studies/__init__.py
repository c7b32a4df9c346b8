"""Studies that earn the claims: many trainings and evaluations, each one a cell whose result is a file."""
