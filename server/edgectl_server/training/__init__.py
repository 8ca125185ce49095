"""From a dataset and the model in service to a candidate, in processes of their own."""
