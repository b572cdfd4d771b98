"""Training: losses, penalties, augmentation, the step of each GAN, the loop, checkpoints, guards."""
