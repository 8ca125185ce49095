"""From a pushed model file to measured variants, in processes that may be killed."""
