"""What is learned: features, fusion models, training. Knows nothing of sockets; importing it does not import torch."""
