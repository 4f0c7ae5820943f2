"""Networks as they come: loading, layers, receptive fields, ReLU rules. The user's module is never edited."""
