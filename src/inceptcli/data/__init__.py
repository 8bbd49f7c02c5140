"""From a folder of photographs to batches. Knows nothing of networks."""
