"""What happens now and then while a model trains: sampling and scoring, logging, progress."""
