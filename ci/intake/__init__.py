"""What the world says happened."""
