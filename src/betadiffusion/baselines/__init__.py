"""The family around the multi-beta VAE and the baselines of the paper's tables, each a small file on the same parts."""
