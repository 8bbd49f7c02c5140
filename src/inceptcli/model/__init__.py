"""From batches to logits. Knows nothing of files of photographs."""
