"""How good, how much and how long: accuracy, communication and cost, each with a named protocol."""
