"""The embedded data set and the training of the network `demo` on it."""
