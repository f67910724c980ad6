"""What the synthetic data is for: the downstream tasks, each one object that says what is asked of a model, how its
answers are scored, and how two configurations are told apart. How its models are trained is in ``training``."""
