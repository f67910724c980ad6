"""What a candidate must show on test patients, and what becomes of it: the gates, the verdict, the registry's champion.
Knows no command: whoever asks is told the verdict."""
