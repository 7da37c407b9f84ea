"""What ``make demo`` runs."""
