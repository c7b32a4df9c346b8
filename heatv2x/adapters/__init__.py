"""Small modules that let a new agent type join a frozen base. Every one is the identity until it is trained."""
