"""What moves: training, inference and the figures they lead to."""
