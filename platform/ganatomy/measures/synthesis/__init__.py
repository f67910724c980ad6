"""What is measured of synthetic images themselves, beside what they are worth for a task."""
