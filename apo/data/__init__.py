"""Sources -> records -> scored corpus -> tokenised store -> rows.  Nothing here knows of models or objectives."""
