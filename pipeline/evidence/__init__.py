"""Where the evidence lies: heatmaps against objects, and heatmaps against one another."""
