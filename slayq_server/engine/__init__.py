"""What the project exists for: leasing jobs, delivering them, and writing down what came of it."""
