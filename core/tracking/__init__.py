"""Write a run's folder while the run goes on."""
