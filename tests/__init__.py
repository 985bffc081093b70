"""One file of promises per room of the house."""
