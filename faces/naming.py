"""What the classes are called."""

LABELS = ("healthy", "down_syndrome")  # index = y_true
